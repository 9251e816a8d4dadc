// What every part draws with. `html` makes elements and text, never markup: what a model or a caller has written stays text.
export { Component, html, render, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
