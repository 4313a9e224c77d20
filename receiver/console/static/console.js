// Light or dark: as this browser was told last, or else as its system is. Runs in the head, so that nothing flashes.
(function () {
  "use strict";
  const key = "zoho-mirror-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  function show() {
    const chosen = localStorage.getItem(key) || (system.matches ? "dark" : "light");
    document.documentElement.setAttribute("data-bs-theme", chosen);
  }
  function disable(form, isDisabled) {
    [...form.elements].filter((each) => each.type === "submit").forEach((button) => (button.disabled = isDisabled));
  }
  show();
  system.addEventListener("change", show);
  document.addEventListener("submit", function (event) {
    const question = event.target.getAttribute("data-confirm");
    if (question && !window.confirm(question)) {
      event.preventDefault();
    } else if (event.target.method === "post") {
      // A second click would do it a second time. Later, for a disabled button is not sent along.
      setTimeout(() => disable(event.target, true));
    }
  });
  // Whoever comes back to a page finds it usable.
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form").forEach((form) => disable(form, false));
  });
  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-goes-to-value]")) {
      window.location = event.target.value;
    }
  });
  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-applies-columns]")) {
      window.applyColumnVisibility();
    }
    if (event.target.closest("[data-theme-toggle]")) {
      const shown = document.documentElement.getAttribute("data-bs-theme");
      localStorage.setItem(key, shown === "dark" ? "light" : "dark");
      show();
    }
  });
})();
