/** A backend or method broken on purpose, and the check of the kit that is meant for it: data for the tests and for the printed table. */

export interface BrokenThing {
  /** Name of the check meant for it. */
  readonly check: string
  /** What that check says then. */
  readonly message: RegExp
  /** Checks to run before it, where it looks at what others left. */
  readonly after?: readonly string[]
  /** All checks that the kit declares for the broken thing, by name (see collect.ts). */
  checks(): ReadonlyMap<string, () => Promise<void>>
}

export type BrokenThings = Readonly<Record<string, BrokenThing>>

/** Runs the check meant for it, and returns what that check failed with; throws where it does not exist or passes. */
export async function caught({ check, after = [], checks }: BrokenThing): Promise<Error> {
  const declared = checks()
  const run = (name: string): Promise<void> => {
    const body = declared.get(name)
    if (!body) throw new Error(`the kit has no check "${name}"; it has ${[...declared.keys()].join(", ")}`)
    return body()
  }
  for (const name of after) await run(name).catch(() => {})
  try {
    await run(check)
  } catch (error) {
    if (error instanceof Error) return error
    throw error
  }
  throw new Error(`"${check}" passed`)
}

export interface Verdict {
  readonly what: string
  readonly check: string
  /** Whether the check meant for it failed, and said so. */
  readonly caught: boolean
  /** Names of other checks that failed too. */
  readonly others: readonly string[]
}

/** Runs every check on a broken thing. */
export async function verdictOf(what: string, { check, message, checks }: BrokenThing): Promise<Verdict> {
  const failed = new Map<string, string>()
  for (const [name, run] of checks()) {
    await run().catch((error: unknown) => failed.set(name, error instanceof Error ? error.message : String(error)))
  }
  const others = [...failed.keys()].filter((name) => name !== check)
  return { what, check, caught: message.test(failed.get(check) ?? ""), others }
}

/** Head of a Markdown table of verdicts on things of a kind. */
export function tableHead(kind: string): string {
  return `| broken ${kind} | check meant for it | caught by it | others that failed |\n|---|---|---|---|`
}

/** Row of such a table. */
export function tableRow({ what, check, caught, others }: Verdict): string {
  return `| ${what} | ${check} | ${caught ? "yes" : "NO"} | ${others.length} |`
}
