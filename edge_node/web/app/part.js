// What all parts of the page have in common: lit's elements, drawn into the page itself so that one
// style sheet is all there is, and drawn again when the state of the page changed.

import { ReactiveElement } from '../vendor/reactive-element/reactive-element.js';
import { html, nothing, render, svg } from '../vendor/lit-html/lit-html.js';
import { repeat } from '../vendor/lit-html/directives/repeat.js';
import { state } from './state.js';

export { html, nothing, repeat, svg };

export class Part extends ReactiveElement {
  createRenderRoot() {
    return this;
  }

  connectedCallback() {
    super.connectedCallback();
    this.redraw = () => this.requestUpdate();
    state.addEventListener('changed', this.redraw);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    state.removeEventListener('changed', this.redraw);
  }

  update(changed) {
    super.update(changed);
    render(this.render(), this, { host: this });
  }
}
