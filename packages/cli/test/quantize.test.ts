/** `peft quantize`, and training over a base in 4 bits: quantised on the fly, or from the folder that was written. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { parseSafetensors } from "@peftjs/safetensors"
import { afterAll, expect, it, vi } from "vitest"
import { makeWorkplace, metricsIn, peft, peftJson } from "./run-peft.ts"

// Every test starts processes, and shares the machine with other tests.
vi.setConfig({ testTimeout: 240_000 })

const work = makeWorkplace()
afterAll(() => work.remove())
const folder = work.path("nf4")

it("writes a folder in 4 bits that the other commands read", async () => {
  const args = ["quantize", "--model", work.model, "--output", folder, "--double-quant"]
  const found = await peftJson<{ layers: number; bits_per_value: number; type: string }>(...args)
  expect(found).toMatchObject({ type: "nf4", layers: 14 })
  expect(found.bits_per_value).toBeLessThan(4.9)
  const { tensors } = parseSafetensors(readFileSync(join(folder, "model.safetensors")))
  expect([...tensors.keys()].filter((name) => name.includes("bitsandbytes__nf4"))).toHaveLength(14)
  expect(existsSync(join(folder, "tokenizer.json"))).toBe(true)
  const input = work.write("ids.json", JSON.stringify({ input_ids: [[1, 17, 42]] }))
  await peftJson("logits", "--model", folder, "--input", input, "--output", work.path("logits.safetensors"))
  expect((await peft(...args)).stderr).toContain("E_OUTPUT_EXISTS")
})

it("refuses what is quantised already, and what int8 does not have, and leaves nothing behind", async () => {
  const output = work.path("again")
  const again = await peft("quantize", "--model", folder, "--output", output)
  expect([again.code, again.stderr]).toEqual([1, expect.stringMatching(/quantization_config.*E_CONFIG/)])
  const int8 = await peft("quantize", "--model", work.model, "--output", output, "--type", "int8", "--block-size", "64")
  expect([int8.code, int8.stderr]).toEqual([1, expect.stringMatching(/one scale for each row.*E_OPTION/)])
  expect(existsSync(output)).toBe(false)
})

it("trains over it the same as over a base quantised while it is loaded", async () => {
  const common = ["--data", work.rows, "--max-steps", "3", "--max-length", "64", "--r", "4"]
  const [fly, stored] = [work.path("fly"), work.path("stored")]
  await peftJson("train", "--model", work.model, "--method", "qlora", ...common, "--output", fly)
  await peftJson("train", "--model", folder, "--method", "lora", ...common, "--output", stored)
  const losses = (output: string): number[] => metricsIn(output).map((m) => m.loss)
  expect(losses(fly)).toHaveLength(3)
  expect(losses(stored)).toEqual(losses(fly))
  const adapter = join(stored, "adapter")
  const merge = ["merge", "--model", folder, "--adapter", adapter, "--output"]
  const packed = await peftJson<Record<"packing_error" | "packing_error_mean" | "packing_error_relative", number>>(
    ...[...merge, work.path("packed"), "--weights", "nf4", "--double-quant"],
  )
  expect(packed.packing_error_relative).toBeGreaterThan(0)
  expect(packed.packing_error_mean).toBeGreaterThan(0)
  expect(packed.packing_error_mean).toBeLessThan(packed.packing_error)
  const dense = await peft(...merge, work.path("dense"), "--json")
  expect([dense.code, dense.stderr]).toEqual([
    0,
    expect.stringMatching(/is quantised: .*give the model it was made from/),
  ])
  expect(JSON.parse(dense.stdout)).not.toHaveProperty("packing_error")
  // The default: into the model that the base was made from.
  const original = await peft("merge", "--model", work.model, "--adapter", adapter, "--output", work.path("original"))
  expect([original.code, original.stderr]).toEqual([0, ""])
  const dry = await peft("train", "--model", folder, "--method", "qlora", ...common, "--dry-run")
  expect([dry.code, dry.stderr]).toEqual([0, ""])
  const other = await peft("train", "--model", folder, "--weights", "fp4", ...common, "--output", work.path("other"))
  expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/fp4 was asked for.*E_CONFIG/)])
  const idle = await peft("train", "--model", folder, "--block-size", "64", ...common, "--output", work.path("idle"))
  expect([idle.code, idle.stderr]).toEqual([1, expect.stringMatching(/--block-size means nothing.*E_OPTION/)])
})
