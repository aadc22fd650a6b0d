/** `peft merge`: the folder it writes is the adapted model, and a merge that fails leaves no trace. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { cp } from "node:fs/promises"
import { join } from "node:path"
import { parseSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { afterAll, expect, it } from "vitest"
import { fixtures, makeWorkplace, peft, peftJson } from "./run-peft.ts"

const work = makeWorkplace()
afterAll(() => work.remove())
const [base, adapter] = [join(fixtures, "models/llama"), join(fixtures, "adapters/llama/lora-all-linear")]
const logitsOf = async (name: string, ...model: string[]): Promise<Float32Array> => {
  const input = work.write("ids.json", JSON.stringify({ input_ids: [[1, 17, 42, 99, 5]] }))
  const output = work.path(`${name}.safetensors`)
  await peftJson("logits", ...model, "--input", input, "--output", output)
  return parseSafetensors(readFileSync(output)).tensors.get("logits")?.data as Float32Array
}

it("writes a model with the adapter's logits, and does not replace it unasked", async () => {
  const output = work.path("merged")
  const args = ["merge", "--model", base, "--adapter", adapter, "--output", output]
  const { max_error, sites } = await peftJson<{ max_error: number; sites: number }>(...args)
  expect(sites).toBe(14)
  expect(max_error).toBeLessThan(1e-4)
  const [merged, apart] = [
    await logitsOf("merged", "--model", output),
    await logitsOf("apart", "--model", base, "--adapter", adapter),
  ]
  expect(Math.max(...merged.map((x, i) => Math.abs(x - (apart[i] as number))))).toBeLessThan(1e-4)
  const again = await peft(...args)
  expect([again.code, again.stderr]).toEqual([1, expect.stringContaining("E_OUTPUT_EXISTS")])
  expect((await peftJson<{ dtype: string }>(...args, "--overwrite", "--dtype", "bf16")).dtype).toBe("bf16")
  expect(JSON.parse(readFileSync(join(output, "config.json"), "utf8"))).toMatchObject({ dtype: "bfloat16" })
})

it("refuses a broken adapter and leaves nothing behind", async () => {
  const broken = work.path("broken")
  await cp(adapter, broken, { recursive: true })
  const file = join(broken, "adapter_model.safetensors")
  const { tensors } = parseSafetensors(readFileSync(file))
  const changed = [...tensors].map(
    ([name, t]) => [name, { ...t, data: (t.data as Float32Array).slice().fill(Number.NaN) }] as const,
  )
  writeFileSync(file, serializeSafetensors(changed, { format: "pt" }))
  const output = work.path("nothing")
  const { code, stdout, stderr } = await peft(
    "merge",
    "--model",
    base,
    "--adapter",
    broken,
    "--output",
    output,
    "--json",
  )
  expect([code, stdout, stderr]).toEqual([1, "", expect.stringContaining("E_MERGE_NOT_FINITE")])
  expect(existsSync(output)).toBe(false)
  expect(readdirSync(work.folder).filter((name) => name.includes("unfinished"))).toEqual([])
})
