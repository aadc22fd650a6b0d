/**
 * Code in the documentation: a block under `<!-- from PATH -->` is that file, under `<!-- from PATH#NAME -->` what stands there between
 * `#region NAME` and `#endregion`, without its indentation. tests/docs.test.ts compares; run as a program, this writes the blocks anew.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = join(import.meta.dirname, "..")
export const docs: string = join(root, "docs")

const block = /^(?:<!-- from (\S+) -->\n)?^```(\w+)\n(.*?)^```$/gms

export interface Block {
  /** Where it is from, if it says so. */
  readonly source: string | undefined
  readonly language: string
  readonly code: string
}

export function blocksOf(text: string): Block[] {
  return [...text.matchAll(block)].map(([, source, language = "", code = ""]) => ({ source, language, code }))
}

const isMarker = (line: string): boolean => /^\s*(\/\/|#) #(end)?region\b/.test(line)
const plain = (lines: readonly string[]): string => lines.filter((line) => !isMarker(line)).join("\n")

/** A file, or a region of it. Throws where there is none of that name. */
export function excerpt(source: string): string {
  const [path = "", name] = source.split("#")
  const lines = readFileSync(join(root, path), "utf8").split("\n")
  if (name === undefined) return plain(lines)
  const start = lines.findIndex((line) => isMarker(line) && line.trim().endsWith(`#region ${name}`))
  if (start < 0) throw new Error(`${path} has no region ${name}`)
  let depth = 1
  const end = lines.findIndex((line, i) => {
    if (i <= start || !isMarker(line)) return false
    depth += line.includes("#endregion") ? -1 : 1
    return depth === 0
  })
  const inside = lines.slice(start + 1, end)
  const indent = Math.min(...inside.filter((line) => line.trim() !== "").map((line) => line.search(/\S/)))
  return `${plain(inside.map((line) => line.slice(indent)))}\n`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const name of readdirSync(docs).filter((file) => file.endsWith(".md"))) {
    const path = join(docs, name)
    const before = readFileSync(path, "utf8")
    const after = before.replace(block, (whole, source?: string, language?: string) =>
      source ? `<!-- from ${source} -->\n\`\`\`${language}\n${excerpt(source)}\`\`\`` : whole,
    )
    if (after !== before) console.log(`docs/${name}`)
    writeFileSync(path, after)
  }
}
