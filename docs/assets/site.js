// What the theme leaves out: landmarks with names, and a keyboard's way to what scrolls sideways.
const mend = () => {
  for (const nav of document.querySelectorAll("nav.md-code__nav")) nav.setAttribute("role", "none");
  for (const nav of document.querySelectorAll("nav.md-nav[aria-labelledby]")) {
    const label = document.getElementById(nav.getAttribute("aria-labelledby"));
    if (label?.textContent.trim()) continue;
    const link = nav.parentElement.querySelector(".md-nav__link .md-ellipsis");
    nav.removeAttribute("aria-labelledby");
    nav.setAttribute("aria-label", link?.textContent.trim() || "Section");
  }
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
  }
};
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();
