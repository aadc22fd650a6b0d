/**
 * What the kit needs of a test runner (vitest, node:test and mocha all have it; the kit depends on none of them), and the backends
 * to run on, of which one may be absent: then it is skipped by name, or fails where it was required. Reads no environment.
 */
import type { Backend } from "@peftjs/core"

/** The functions of a test runner. */
export interface Runner {
  /** A group of checks. */
  readonly describe: (name: string, body: () => void) => unknown
  /** One check: it fails when the body throws or rejects. `skip` declares one that is not run; without it an absence is only named. */
  readonly it: ((name: string, body: () => void | Promise<void>) => unknown) & {
    skip?(name: string, body: () => void | Promise<void>): unknown
  }
}

/**
 * Makes a backend. With options it is a new one that honours them; without, it may be the same at every call, which spares a device the
 * compiling of its kernels.
 */
export type MakeBackend = (options?: { maxBufferBytes?: number }) => Backend | Promise<Backend>

/** A backend that cannot be had here. */
export interface Absent {
  /** Why, for the summary. */
  readonly absent: string
}

/** How to come by a backend, or why not. */
export type BackendEntry = MakeBackend | Absent

export interface RequiredBackends {
  /** Names of backends whose absence is a failure. */
  readonly required?: readonly string[]
}

/**
 * Declares a group of checks, "<what><name>", for each backend there is. One that is absent becomes one skipped check with its reason, or a
 * failing one where its name, or one that nobody knows, is required.
 */
export function forEachBackend(
  backends: Readonly<Record<string, BackendEntry>>,
  { describe, it, required = [] }: Runner & RequiredBackends,
  what: string,
  body: (name: string, makeBackend: MakeBackend) => void,
): void {
  for (const [name, entry] of Object.entries(backends)) {
    if (typeof entry === "function") describe(`${what}${name}`, () => body(name, entry))
    else absence({ describe, it }, `${what}${name}: ${entry.absent}`, required.includes(name))
  }
  for (const name of required) {
    const known = Object.keys(backends)
    if (!known.includes(name))
      absence({ describe, it }, `${what}${name}: nobody knows this backend; there are ${known.join(", ")}`, true)
  }
}

function absence({ it }: Runner, name: string, required: boolean): void {
  const fail = (): void => {
    throw new Error(`${name}; it is required here`)
  }
  if (required) it(name, fail)
  else if (it.skip) it.skip(name, fail)
  else it(`skipped: ${name}`, () => {})
}
