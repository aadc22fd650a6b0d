/** Whole and broken safetensors files must get the verdict of the reference library from `peft inspect`. */
import { join } from "node:path"
import { type Context, finish, readJson, startPeft } from "../programs.ts"

type Verdict = { accept: boolean; required: boolean }

export async function safetensorsCorpus(context: Context): Promise<void> {
  const folder = join(context.shared, "fixtures/safetensors")
  const { files } = readJson<{ files: Record<string, Verdict> }>(folder, "expected.json")
  const required = Object.entries(files).filter(([, verdict]) => verdict.required)
  const wrong: string[] = []
  for (const [name, { accept }] of required) {
    const child = startPeft(["inspect", join(folder, "corpus", `${name}.safetensors`), "--json"], context.blas)
    const { code, stdout, stderr } = await finish(child)
    const good = accept
      ? code === 0 && isJson(stdout)
      : code !== 0 && /\bE_[A-Z_]+\b/.test(stderr) && !/^\s+at /m.test(stderr)
    if (!good) wrong.push(`${name} (exit code ${code})`)
  }
  context.expect(
    `${required.length} files`,
    required.length > 60 && wrong.length === 0,
    wrong.join(", ") || "all as recorded; every refusal has a code and no stack trace",
  )
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
