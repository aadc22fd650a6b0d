/** What a run of the conformance kit found, and the tables made of it. Text in, text out: files are the business of others. */

export type State = "passed" | "failed" | "skipped"

/** The checks of one backend, or of one method on one backend, in one place. */
export interface Group {
  /** Folder of the package whose test declared it, or the example's. */
  readonly package: string
  /** "backend webgpu", "adapter lora, DoRA on webgpu". */
  readonly name: string
  readonly kind: "backend" | "adapter" | "device" | "other"
  readonly backend: string
  readonly place: "Node" | "Chromium"
  /** Of kind "device": where the backend computed there, by its own words. */
  readonly device?: string
  /** By the name of the check. */
  readonly checks: Readonly<Record<string, State>>
  /** Why it was skipped as a whole. */
  readonly absent?: string
}

/** What names say: "backend NAME" and "adapter METHOD on BACKEND", followed by ": reason" where it is absent, and "device of BACKEND". */
export function parseName(name: string): Pick<Group, "name" | "kind" | "backend" | "absent"> {
  const [, of] = /^device of (.*)$/.exec(name) ?? []
  if (of !== undefined) return { name, kind: "device", backend: of }
  const [, own = name, absent] = /^((?:backend|adapter) .*?): (.*)$/.exec(name) ?? []
  const [, backend, on] = /^(?:backend (.*)|adapter .* on (.*?))$/.exec(own) ?? []
  const kind = backend !== undefined ? "backend" : on !== undefined ? "adapter" : "other"
  return { name: own, kind, backend: backend ?? on ?? "", ...(absent === undefined ? {} : { absent }) }
}

/** Of packages/NAME/test/conformance.test.ts, and of tests/NAME-conformance.test.ts for what lies elsewhere. */
export function packageOf(path: string): string {
  const [, folder, other = ""] = /(?:^|\/)(?:packages\/([^/]+)\/|tests\/([^/]+)-conformance\.)/.exec(path) ?? []
  return folder ?? other
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

interface Column {
  readonly backend: string
  readonly place: Group["place"]
  /** "cuda on TensorFlow's CPU, Node"; a backend that says nothing of a device is named alone. */
  readonly title: string
}

/** Every backend in every place that a method was run on. */
function columnsOf(groups: readonly Group[]): Column[] {
  const on = groups.filter((g) => g.kind === "adapter")
  return unique(on.map((g) => g.backend)).flatMap((backend) =>
    (["Node", "Chromium"] as const)
      .filter((place) => on.some((g) => g.backend === backend && g.place === place))
      .map((place) => {
        const { device } = groups.find((g) => g.kind === "device" && g.backend === backend && g.place === place) ?? {}
        return { backend, place, title: `${device === undefined ? backend : `${backend} on ${device}`}, ${place}` }
      }),
  )
}

const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`
/** A group with some of its checks. */
const only = (g: Group, wanted: (check: string) => boolean): Group => ({
  ...g,
  checks: Object.fromEntries(Object.entries(g.checks).filter(([check]) => wanted(check))),
})

function table(
  corner: string,
  groups: readonly Group[],
  rows: readonly (readonly [string, readonly Group[]])[],
): string {
  const columns = columnsOf(groups)
  return [
    line([corner, ...columns.map(({ title }) => title)]),
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

const formatCheck = /^on weights in (.*) it computes/
/** The kit's own, which nobody chooses. */
const withoutName: readonly string[] = ["a format of their own", "f32 in parts of five rows"]

/** Methods × formats of the weights under them: how many checks passed, on all backends and in all places together. */
export function formatTable(all: readonly Group[]): string {
  const methods = all.filter((g) => real(g) && g.kind === "adapter" && g.absent === undefined)
  const formats = [
    ...new Set(methods.flatMap((g) => Object.keys(g.checks)).flatMap((check) => formatCheck.exec(check)?.[1] ?? [])),
  ].filter((name) => !withoutName.includes(name))
  const passed = (method: string, format: string): string =>
    cell(
      methods
        .filter((g) => g.package === method)
        .map((g) => only(g, (check) => formatCheck.exec(check)?.[1] === format))
        .filter((g) => Object.keys(g.checks).length > 0),
    )
  return [
    line(["method", ...formats]),
    line(["---", ...formats.map(() => "---")]),
    ...unique(methods.map(methodPackage)).map((method) =>
      line([method, ...formats.map((format) => passed(method, format))]),
    ),
  ].join("\n")
}

/** Both tables, for the README. */
export function summary(all: readonly Group[]): string {
  return `${summaryTable(all)}\n\nThe same methods by how the weights under them are stored, on all of these backends together (one that lacks an element type has to refuse it):\n\n${formatTable(all)}`
}

/** The page docs/support.md: the summary, the configurations of each method, and every check by name. */
export function supportPage(all: readonly Group[]): string {
  const groups = all.filter(real)
  const methods = groups.filter((g) => g.kind === "adapter")
  const configuration = (g: Group): string => g.name.replace(/^adapter (.*) on .*$/, "$1")
  const byCheck = (of: readonly Group[], title: (check: string) => string): (readonly [string, readonly Group[]])[] => {
    const titles = [...new Set(of.flatMap((g) => (g.absent ? [] : Object.keys(g.checks))).map(title))]
    return titles.map((name) => [name, of.map((g) => only(g, (check) => title(check) === name))])
  }
  return [
    "# What runs where",
    "",
    "Generated by `npm run support` from the last `npm run test:conformance`: how many checks of the conformance kit passed. An empty cell was not run.",
    "",
    summary(all),
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

/** What there is: methods, backends, and packed formats of weights. */
export type Existing = Readonly<Record<"methods" | "backends" | "formats", readonly string[]>>

/** What a page's summary names against what exists; empty when they are the same. */
export function staleness(text: string, existing: Partial<Existing>): string[] {
  const [onBackends = "", overFormats = ""] = text.match(/(^\|.*\n?)+/gm) ?? []
  const cells = (line: string): string[] =>
    line
      .split("|")
      .slice(1, -1)
      .map((c) => c.trim())
  const headOf = (table: string): string[] => cells(table.split("\n", 1)[0] ?? "").slice(1)
  const [, , ...rows] = onBackends.trim().split("\n")
  const named: Existing = {
    backends: unique(headOf(onBackends).map((c) => c.replace(/( on .*)?, (Node|Chromium)$/, ""))),
    methods: rows.map((row) => cells(row)[0] as string).filter((name) => name !== "(the backend itself)"),
    formats: headOf(overFormats).filter((name) => name !== "bf16" && name !== "f16"),
  }
  return Object.entries(existing).flatMap(([what, exist]) => {
    const listed = named[what as keyof Existing]
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
