"use strict";

// Without the search, whose index is made by a script of its own.
const fonts = "system-ui, sans-serif";
const options = {
  disableSearch: true,
  expandResponses: "200",
  theme: {
    typography: {
      fontFamily: fonts,
      headings: { fontFamily: fonts },
      code: { fontFamily: "ui-monospace, monospace" },
    },
  },
};
Redoc.init("openapi.json", options, document.getElementById("api"));
