// What an operator does to a device.

import { nothing } from './part.js';

export const operatorsActions = () => nothing;
