/** Prints how many lines of source and of tests each package has, and its longest source file. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

const root = join(import.meta.dirname, "..", "packages")

function lines(folder: string): Map<string, number> {
  if (!existsSync(folder)) return new Map()
  const paths = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => /\.[jt]s$/.test(path))
  return new Map(paths.map((path) => [path, readFileSync(join(folder, path), "utf8").trimEnd().split("\n").length]))
}
const sum = (counts: Iterable<number>): number => [...counts].reduce((a, b) => a + b, 0)

const rows = readdirSync(root).map((name) => {
  const source = lines(join(root, name, "src"))
  const test = sum(lines(join(root, name, "test")).values())
  const [longest, length] = [...source].sort((a, b) => b[1] - a[1])[0] ?? ["", 0]
  return { package: name, files: source.size, source: sum(source.values()), test, longest: `${longest} ${length}` }
})
console.table(rows)
console.log(`source ${sum(rows.map((row) => row.source))}, test ${sum(rows.map((row) => row.test))}`)
