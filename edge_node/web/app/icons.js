// Line icons of 20 by 20.

import { svg, html } from './part.js';

const PATHS = {
  draw: svg`<path d="M3 17l1-4L13.5 3.5a1.8 1.8 0 0 1 2.6 0l.4.4a1.8 1.8 0 0 1 0 2.6L7 16z"/><path d="M12 5l3 3"/>`,
  cluster: svg`<rect x="2.5" y="3" width="6" height="6" rx="1.5"/><rect x="11.5" y="3" width="6" height="6" rx="1.5"/><rect x="7" y="12" width="6" height="5.5" rx="1.5"/>`,
  queue: svg`<path d="M3 5h14M3 10h14M3 15h8"/>`,
  gallery: svg`<rect x="2.5" y="3" width="15" height="14" rx="2"/><circle cx="7" cy="7.5" r="1.5"/><path d="M3 14l4-3 3 2.5 3.5-4L17 13"/>`,
  sun: svg`<circle cx="10" cy="10" r="3.5"/><path d="M10 2v2M10 16v2M2 10h2M16 10h2M4.4 4.4l1.4 1.4M14.2 14.2l1.4 1.4M4.4 15.600l1.4-1.4M14.2 5.800l1.4-1.4"/>`,
  language: svg`<circle cx="10" cy="10" r="7.2"/><path d="M2.8 10h14.4M10 2.8c2.2 2 3.2 4.4 3.2 7.2s-1 5.2-3.2 7.2c-2.2-2-3.2-4.4-3.2-7.2s1-5.2 3.2-7.2"/>`,
  dice: svg`<rect x="3" y="3" width="14" height="14" rx="3"/><path d="M7 7h.01M13 7h.01M10 10h.01M7 13h.01M13 13h.01"/>`,
  cross: svg`<path d="M5 5l10 10M15 5L5 15"/>`,
  again: svg`<path d="M4 10a6 6 0 1 0 2-4.500M6 2v3.500h3.5"/>`,
  vary: svg`<path d="M3 6h3l8 8h3M3 14h3l2.5-2.500M11.5 8.500L14 6h3M15 4l2 2-2 2M15 12l2 2-2 2"/>`,
  download: svg`<path d="M10 3v9M6.5 9l3.5 3.500L13.5 9M4 16.500h12"/>`,
  delete: svg`<path d="M4 6h12M8 6V4h4v2M5.5 6l.8 11h7.4l.8-11"/>`,
  image: svg`<rect x="2.5" y="4" width="15" height="12" rx="2"/><path d="M10 7.500v5M7.5 10h5"/>`,
  key: svg`<circle cx="7" cy="13" r="3.6"/><path d="M9.8 10.2L16.5 3.5M13.5 6.5l2.2 2.2"/>`,
  pause: svg`<path d="M7 4.500v11M13 4.500v11"/>`,
  resume: svg`<path d="M6 4l9 6-9 6z"/>`,
  drain: svg`<path d="M10 3v8M6.5 8l3.5 3.500L13.5 8M4 15h12"/>`,
  remove: svg`<path d="M4 6h12M8 6V4h4v2M5.5 6l.8 11h7.4l.8-11"/>`,
  readmit: svg`<path d="M4 10a6 6 0 1 0 2-4.500M6 2v3.500h3.5"/>`,
  more: svg`<path d="M5 8l5 5 5-5"/>`,
};

export const icon = (name) => html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true">${PATHS[name]}</svg>`;
