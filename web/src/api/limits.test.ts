import { expect, test } from 'vitest';

import { limitOf } from './limits';

test.each([
  ['/v1/key', 30],
  ['/admin/models', 30],
  ['/admin/models/a%2Fb', 30],
  ['/admin/models/a/unload?wait=false', 30],
  ['/admin/models/a/load?wait=false', 30],
  ['/admin/models/a/load', null],
  ['/admin/models/a%2Fb/unload', null],
  ['/admin/models/pull?wait=true', null],
  ['/admin/models-file', 120],
  ['/admin/models-file/check', 120],
  ['/admin/reload', 120],
  ['/admin/models/a/unpin', 120],
  ['/admin/models/load', 30],
])('%s may take %s seconds', (path, seconds) => expect(limitOf(path)).toBe(seconds));
