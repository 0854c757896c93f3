import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { HeldOrder } from './heldOrder.svelte';

let wanted: string[];
let order: HeldOrder;

beforeEach(() => {
  vi.useFakeTimers();
  wanted = ['a', 'b'];
  order = new HeldOrder(
    () => [...wanted],
    () => true,
  );
});

afterEach(() => vi.useRealTimers());

test('rows stand still while a pointer is over them, and move when it has left', () => {
  order.pointer(true);
  wanted = ['b', 'a', 'c'];
  expect(order.names).toEqual(['a', 'b', 'c']);
  order.pointer(false);
  expect(order.names).toEqual(['b', 'a', 'c']);
});

test('rows stand still until both pointer and focus have left', () => {
  order.pointer(true);
  order.focus(true);
  wanted = ['b', 'a'];
  order.pointer(false);
  expect(order.names).toEqual(['a', 'b']);
  order.focus(false);
  expect(order.names).toEqual(['b', 'a']);
});

test('rows stand still for a while after the last touch', () => {
  order.touch();
  wanted = ['b', 'a'];
  vi.advanceTimersByTime(20_000);
  order.touch();
  vi.advanceTimersByTime(20_000);
  expect(order.names).toEqual(['a', 'b']);
  vi.advanceTimersByTime(10_000);
  expect(order.names).toEqual(['b', 'a']);
});

test('another order that somebody asks for is there at once', () => {
  order.pointer(true);
  wanted = ['b', 'a'];
  order.renew();
  expect(order.names).toEqual(['b', 'a']);
});
