// Light or dark: as this browser was told last, or else as its system is. Runs in the head, so that nothing flashes.
(function () {
  "use strict";
  const key = "zoho-mirror-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  function show() {
    const chosen = localStorage.getItem(key) || (system.matches ? "dark" : "light");
    document.documentElement.setAttribute("data-bs-theme", chosen);
  }
  show();
  system.addEventListener("change", show);
  document.addEventListener("submit", function (event) {
    const question = event.target.getAttribute("data-confirm");
    if (question && !window.confirm(question)) {
      event.preventDefault();
    }
  });
  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-theme-toggle]")) {
      const shown = document.documentElement.getAttribute("data-bs-theme");
      localStorage.setItem(key, shown === "dark" ? "light" : "dark");
      show();
    }
  });
})();
