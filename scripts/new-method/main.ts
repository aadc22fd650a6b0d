/**
 * `npm run new:method NAME`: a package packages/NAME that passes the conformance kit at once, to be filled with a method of its own.
 * Only new files are written. A second argument names another folder than the repository's.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"

const template = join(import.meta.dirname, "template")
const [name = "", root = join(import.meta.dirname, "..", "..")] = process.argv.slice(2)
const reserved =
  "await break case catch class const continue debugger default delete do else enum export extends false finally for function if " +
  "import in instanceof let new null return static super switch this throw true try typeof var void while with yield " +
  // Words that mean something else here: folders that do not exist on purpose, and the method without an adapter.
  "utils common shared types full make format defaults keys spelling"

refuseUnless(
  /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name),
  `${JSON.stringify(name)} is no name for a package: lower-case words joined by "-", such as my-method`,
)
refuseUnless(
  !reserved.split(" ").includes(name) && !name.startsWith("backend-") && name !== "new-name",
  `${name} cannot be the name of a method; take another`,
)
const folder = join(root, "packages", name)
const changeset = join(root, ".changeset", `${name}.md`)
for (const path of [folder, changeset]) refuseUnless(!existsSync(path), `${path} is there already; nothing was written`)

const camel = name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
const spellings: Readonly<Record<string, string>> = {
  "new-name": name,
  new_name: name.replaceAll("-", "_"),
  NEW_NAME: name.replaceAll("-", "_").toUpperCase(),
  newName: camel,
  NewName: (camel[0] as string).toUpperCase() + camel.slice(1),
}
const filled = (path: string): string =>
  readFileSync(path, "utf8").replace(/new-name|new_name|NEW_NAME|newName|NewName/g, (word) => spellings[word] as string)

for (const path of readdirSync(template, { recursive: true, encoding: "utf8" })) {
  const from = join(template, path)
  if (statSync(from).isDirectory()) continue
  const to = path === "changeset.md" ? changeset : join(folder, path)
  mkdirSync(dirname(to), { recursive: true })
  writeFileSync(to, filled(from), { flag: "wx" })
}
console.log(`packages/${name} is there, and .changeset/${name}.md. Next:

  npx --yes pnpm@10.34.9 install  # links it
  npx vitest run --project ${name}  # the kit, which it passes
  npx peft train --method ${name} --model demo/model --data demo/train.jsonl --output out/${name} --max-steps 20

Then write the method into packages/${name}/src/index.ts; docs/write-an-adapter.md walks through one.`)

function refuseUnless(condition: boolean, message: string): void {
  if (condition) return
  console.error(`new:method: ${message}`)
  process.exit(1)
}
