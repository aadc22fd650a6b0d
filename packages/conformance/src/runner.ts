/** What the kit needs of a test runner: vitest, node:test and mocha all have it. The kit depends on none of them. */

export interface Runner {
  /** A group of checks. */
  readonly describe: (name: string, body: () => void) => unknown
  /** One check: it fails when the body throws or rejects. */
  readonly it: (name: string, body: () => void | Promise<void>) => unknown
}
