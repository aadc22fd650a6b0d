/**
 * The main entries bundled as a page would: nothing in the bundle, and nothing on the way to it, may come from Node.
 * Vite would quietly put an empty stub in the place of a `node:` import, so that asking for one is an error here.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { build, type Plugin } from "vite"

const packages = join(import.meta.dirname, "..", "packages")
/** All that have a main entry; the command is a program for Node. */
const names = readdirSync(packages).filter((name) => {
  const file = join(packages, name, "package.json")
  return name !== "cli" && existsSync(file) && "." in (JSON.parse(readFileSync(file, "utf8")).exports ?? {})
})
const entry = "every-main-entry.js"

const plugin: Plugin = {
  name: "no-node",
  enforce: "pre",
  resolveId(id, importer) {
    if (id.endsWith(entry)) return `\0${entry}`
    if (id.startsWith("node:")) this.error(`${importer} imports ${id}, which a page does not have`)
    return null
  },
  load: (id) =>
    id === `\0${entry}` ? names.map((name, i) => `export * as p${i} from "@peftjs/${name}"`).join("\n") : null,
}

const result = await build({
  configFile: false,
  logLevel: "error",
  plugins: [plugin],
  build: { write: false, minify: false, target: "es2023", lib: { entry, formats: ["es"], fileName: "bundle" } },
})
const outputs = (Array.isArray(result) ? result : [result]).flatMap((part) => ("output" in part ? part.output : []))
const chunks = outputs.filter((output) => output.type === "chunk")
const faults = chunks.flatMap(({ fileName, code, imports }) => [
  ...imports.filter((id) => !chunks.some((chunk) => chunk.fileName === id)).map((id) => `${fileName} imports ${id}`),
  ...(code.match(/["'`]node:[^"'`]*["'`]|__vite-browser-external/g) ?? []).map(
    (text) => `${fileName} contains ${text}`,
  ),
])
for (const fault of faults) console.error(fault)
const bytes = chunks.reduce((sum, { code }) => sum + code.length, 0)
console.log(`${names.length} packages, ${chunks.length} chunks, ${(bytes / 1024).toFixed(0)} KiB not minified`)
process.exitCode = faults.length === 0 && chunks.length > 0 ? 0 : 1
