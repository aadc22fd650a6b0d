/**
 * `npm run support`: writes docs/support.md, and the tables of the README between its markers, from the last run of
 * `npm run test:conformance`. Refuses a run that did not see everything there is, or in which something failed.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { count, type Group, marked, staleness, summary, supportPage } from "../tests/conformance-result.ts"
import { methodPackages } from "../tests/method-packages.ts"

const root = join(import.meta.dirname, "..")
const kept = join(root, ".cache", "conformance.json")
if (!existsSync(kept)) throw new Error("there is no result yet; run npm run test:conformance first")
const groups: Group[] = JSON.parse(readFileSync(kept, "utf8"))
const failed = count(groups, "failed")
if (failed > 0) throw new Error(`${failed} checks failed in the last run; a table is made of a run in which none did`)

const table = summary(groups)
const stale = staleness(table, {
  methods: methodPackages(),
  backends: [...new Set(groups.filter((g) => g.kind === "adapter").map((g) => g.backend))],
})
if (stale.length > 0) throw new Error(`the last run did not see everything: ${stale.join("; ")}`)

writeFileSync(join(root, "docs", "support.md"), supportPage(groups))
const readme = readFileSync(join(root, "README.md"), "utf8")
const before = marked(readme)
if (before === undefined) throw new Error("README.md has no markers <!-- support --> and <!-- /support -->")
writeFileSync(join(root, "README.md"), readme.replace(`<!-- support -->\n${before}`, `<!-- support -->\n${table}\n`))
