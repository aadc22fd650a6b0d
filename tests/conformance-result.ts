/** What a run of the conformance kit found, and the tables made of it. Text in, text out: files are the business of others. */

export type State = "passed" | "failed" | "skipped"

/** The checks of one backend, or of one method on one backend, in one place. */
export interface Group {
  /** Folder of the package whose test declared it. */
  readonly package: string
  /** "backend webgpu", "adapter lora, DoRA on webgpu". */
  readonly name: string
  readonly kind: "backend" | "adapter" | "other"
  readonly backend: string
  readonly place: "Node" | "Chromium"
  /** By the name of the check. */
  readonly checks: Readonly<Record<string, State>>
  /** Why it was skipped as a whole. */
  readonly absent?: string
}

/** What the kit's names say: "backend NAME" and "adapter METHOD on BACKEND", followed by ": reason" where it is absent. */
export function parseName(name: string): Pick<Group, "name" | "kind" | "backend" | "absent"> {
  const [, own = name, absent] = /^((?:backend|adapter) .*?): (.*)$/.exec(name) ?? []
  const [, backend, on] = /^(?:backend (.*)|adapter .* on (.*?))$/.exec(own) ?? []
  const kind = backend !== undefined ? "backend" : on !== undefined ? "adapter" : "other"
  return { name: own, kind, backend: backend ?? on ?? "", ...(absent === undefined ? {} : { absent }) }
}

export function count(groups: readonly Group[], state: State): number {
  return groups.flatMap((g) => Object.values(g.checks)).filter((s) => s === state).length
}

/** "312 passed, 0 failed, 0 skipped" */
export function counts(groups: readonly Group[]): string {
  return (["passed", "failed", "skipped"] as const).map((state) => `${count(groups, state)} ${state}`).join(", ")
}

/** Of the names in REQUIRE_BACKENDS, those for which nothing passed: a backend's name, or "chromium" for the place. */
export function missing(groups: readonly Group[], required: readonly string[]): string[] {
  const ran = groups.filter((g) => Object.values(g.checks).includes("passed"))
  return required.filter((name) =>
    name === "chromium"
      ? !ran.some((g) => g.place === "Chromium")
      : !ran.some((g) => g.kind === "backend" && g.backend === name),
  )
}

const methodPackage = (g: Group): string | undefined => (g.kind === "adapter" ? g.package : undefined)
/** A group of a backend that people use: the kit's own are called fake and prove the kit. */
const real = (g: Group): boolean => g.kind !== "other" && g.package !== "conformance"
const unique = (names: readonly (string | undefined)[]): string[] =>
  [...new Set(names)].filter((name) => name !== undefined).sort()

/** Columns: every backend in every place that a method was run on. */
function columnsOf(groups: readonly Group[]): { backend: string; place: Group["place"] }[] {
  const on = groups.filter((g) => g.kind === "adapter")
  return unique(on.map((g) => g.backend)).flatMap((backend) =>
    (["Node", "Chromium"] as const)
      .filter((place) => on.some((g) => g.backend === backend && g.place === place))
      .map((place) => ({ backend, place })),
  )
}

function table(
  corner: string,
  groups: readonly Group[],
  rows: readonly (readonly [string, readonly Group[]])[],
): string {
  const columns = columnsOf(groups)
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`
  return [
    line([corner, ...columns.map(({ backend, place }) => `${backend}, ${place}`)]),
    line(["---", ...columns.map(() => "---")]),
    ...rows.map(([title, of]) =>
      line([title, ...columns.map((c) => cell(of.filter((g) => g.backend === c.backend && g.place === c.place)))]),
    ),
  ].join("\n")
}

function cell(groups: readonly Group[]): string {
  const [passed, failed] = [count(groups, "passed"), count(groups, "failed")]
  if (failed > 0) return `✗ ${failed} of ${passed + failed}`
  if (passed > 0) return `✓ ${passed}`
  return groups.length > 0 ? "not run" : ""
}

/** Methods × backends, for the README: how many checks passed. */
export function summaryTable(all: readonly Group[]): string {
  const groups = all.filter(real)
  return table("method", groups, [
    ["(the backend itself)", groups.filter((g) => g.kind === "backend")],
    ...unique(groups.map(methodPackage)).map(
      (method) => [method, groups.filter((g) => methodPackage(g) === method)] as const,
    ),
  ])
}

/** The page docs/support.md: the summary, the configurations of each method, and every check by name. */
export function supportPage(all: readonly Group[]): string {
  const groups = all.filter(real)
  const methods = groups.filter((g) => g.kind === "adapter")
  const configuration = (g: Group): string => g.name.replace(/^adapter (.*) on .*$/, "$1")
  const only = (g: Group, wanted: (check: string) => boolean): Group => ({
    ...g,
    checks: Object.fromEntries(Object.entries(g.checks).filter(([check]) => wanted(check))),
  })
  const byCheck = (of: readonly Group[], title: (check: string) => string): (readonly [string, readonly Group[]])[] => {
    const titles = [...new Set(of.flatMap((g) => (g.absent ? [] : Object.keys(g.checks))).map(title))]
    return titles.map((name) => [name, of.map((g) => only(g, (check) => title(check) === name))])
  }
  return [
    "# What runs where",
    "",
    "Generated by `npm run support` from the last `npm run test:conformance`: how many checks of the conformance kit passed. An empty cell was not run.",
    "",
    summaryTable(all),
    "",
    "## Configurations of each method",
    "",
    table(
      "configuration",
      groups,
      unique(methods.map(configuration)).map((name) => [name, methods.filter((g) => configuration(g) === name)]),
    ),
    "",
    "## Checks of a method",
    "",
    table("check", groups, byCheck(methods, adapterCheck)),
    "",
    "## Checks of a backend",
    "",
    table(
      "check",
      groups,
      byCheck(
        groups.filter((g) => g.kind === "backend"),
        backendCheck,
      ),
    ),
    "",
  ].join("\n")
}

/** Checks that compare with another backend are one row. */
function adapterCheck(check: string): string {
  return check.replace(/(?<=^twenty steps have the losses of |^what is saved on )\S+/, "the other backends")
}

/** The many that begin alike are one row. */
function backendCheck(check: string): string {
  const families = { op: "operations, value and gradient", elementwise: "elementwise functions" } as const
  const [first = ""] = check.split(" ", 1)
  return families[first as keyof typeof families] ?? check
}

/** What a page's table names against what exists; empty when they are the same. */
export function staleness(text: string, methods: readonly string[], backends: readonly string[]): string[] {
  const [header = "", , ...rows] = text.split("\n").filter((line) => line.startsWith("|"))
  const cells = (line: string): string[] =>
    line
      .split("|")
      .slice(1, -1)
      .map((c) => c.trim())
  const named = {
    backends: unique(
      cells(header)
        .slice(1)
        .map((c) => c.replace(/, (Node|Chromium)$/, "")),
    ),
    methods: rows.map((row) => cells(row)[0] as string).filter((name) => name !== "(the backend itself)"),
  }
  return Object.entries({ methods, backends }).flatMap(([what, exist]) => {
    const listed: readonly string[] = named[what as "methods" | "backends"]
    return [
      ...exist.filter((name) => !listed.includes(name)).map((name) => `${what}: ${name} exists and is not listed`),
      ...listed.filter((name) => !exist.includes(name)).map((name) => `${what}: ${name} is listed and does not exist`),
    ]
  })
}

/** The text between the markers, or undefined where there are none. */
export function marked(text: string): string | undefined {
  return /<!-- support -->\n([\s\S]*?)<!-- \/support -->/.exec(text)?.[1]
}
