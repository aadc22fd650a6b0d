import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { parseSafetensors } from "@peftjs/safetensors"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import type { DryRun } from "../src/dry-run.ts"
import { restartOf } from "../src/restart-options.ts"
import { finish, makeWorkplace, metricsIn, peft, peftJson, start, type Workplace } from "./run-peft.ts"

/** Restarts after steps 6, 11 and 16, with everything on that has state. */
const recipe =
  "--r 4 --dropout 0.1 --modules-to-save norm --max-steps 21 --batch-size 3 --learning-rate 3e-3 --warmup-steps 2 --seed 11 " +
  "--save-steps 4 --restart-every 5 --restart-warmup 2 --optimizer-reset magnitude:0.9 --warm-start-steps 1"

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
let train: string[]
let summary: Readonly<Record<string, unknown>>
beforeAll(async () => {
  work = makeWorkplace()
  train = ["train", "--model", work.model, "--data", work.rows, ...recipe.split(" ")]
  summary = await peftJson(...train, "--output", work.path("whole"))
})
afterAll(() => work.remove())

const results = ["adapter/adapter_model.safetensors", "model/model.safetensors", "model/config.json"]

describe("a run with restarts", () => {
  it("leaves the model it has come to and the last adapter, which belong together", async () => {
    const [model, adapter] = [work.path("whole/model"), work.path("whole/adapter")]
    expect(summary).toMatchObject({ steps: 21, restarts: 3, model, adapter })
    const config = JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"))
    expect(config).toMatchObject({ base_model_name_or_path: model, r: 4, modules_to_save: ["norm"] })
    const { tensors } = parseSafetensors(readFileSync(join(model, "model.safetensors")))
    expect(new Set([...tensors.values()].map((t) => t.dtype))).toEqual(new Set(["F32"]))
    // The loss of the two together is that of the end of training.
    const evaluated = await peftJson<{ loss: number }>(
      ...["eval", "--model", model, "--adapter", adapter, "--data", work.rows],
    )
    const ended = await peftJson<{ eval_loss: number }>(
      ...[...train, "--eval-data", work.rows, "--output", work.path("again")],
    )
    expect(Math.abs(evaluated.loss - ended.eval_loss)).toBeLessThan(2e-6)
    const rates = metricsIn(work.path("whole")).map((m) => m.learning_rate === 0)
    expect(rates.flatMap((zero, i) => (zero ? [i + 1] : []))).toEqual([1, 7, 12, 17])
    expect(readdirSync(work.path("whole/checkpoints")).sort()).toEqual(["base-3", "latest.json", "step-20", "step-21"])
  })

  it.each([
    ["SIGINT", 9],
    ["SIGKILL", 14],
  ] as const)("stopped by %s goes on bit-equal", async (signal, step) => {
    const output = work.path(signal)
    const child = start([...train, "--output", output, "--json"])
    const ended = finish(child)
    while (child.exitCode === null && metricsIn(output).length < step) await new Promise((done) => setTimeout(done, 2))
    child.kill(signal)
    await ended
    expect(metricsIn(output).length).toBeLessThan(21)
    await peftJson(...train, "--output", output, "--resume", output)
    for (const file of results) {
      const [a, b] = [output, work.path("whole")].map((dir) => readFileSync(join(dir, file)))
      expect((a as Buffer).equals(b as Buffer), file).toBe(true)
    }
    expect(metricsIn(output)).toEqual(metricsIn(work.path("whole")))
  })

  it("of MoRA goes through its groupings", async () => {
    const output = work.path("mora")
    const args = "--method mora --r 2 --method-option type=sharing --max-steps 9 --batch-size 2 --restart-every 4"
    await peftJson("train", "--model", work.model, "--data", work.rows, ...args.split(" "), "--output", output)
    const config = JSON.parse(readFileSync(join(output, "adapter/adapter_config.json"), "utf8"))
    expect(config).toMatchObject({ peft_type: "MORA", mora_type: 3 })
  })

  it("is told by a dry run", async () => {
    const { stdout } = await peft(...train, "--dry-run")
    expect(stdout).toContain(
      "1 steps of full training, then 3 restarts, one every 5 steps (warm-up 2, averages: magnitude:0.9)",
    )
    const adapters = train.slice(0, train.indexOf("--warm-start-steps"))
    const { restart, memory_mb } = await peftJson<DryRun>(...adapters, "--max-steps", "20", "--dry-run")
    const expected = { every: 5, warmup: 2, optimizer_reset: "magnitude:0.9", warm_start_steps: 0, restarts: 3 }
    expect(restart).toEqual(expected)
    // The layers of both blocks in f32, which the base is as well; besides it has an embedding.
    const { merged = 0, weights = 0 } = memory_mb ?? {}
    expect(merged).toBeGreaterThan(0)
    expect(merged).toBeLessThan(weights)
  })
})

describe("refused", () => {
  it.each([
    [{ restartEvery: 5, restartWarmup: 5 }, /--restart-warmup 5 must be less than --restart-every, which is 5/],
    [{ restartWarmup: 2 }, /--restart-warmup needs --restart-every/],
    [{ optimizerReset: "reset" }, /--optimizer-reset needs --restart-every/],
    [{ warmStartSteps: 2 }, /--warm-start-steps needs --restart-every/],
    [
      { restartEvery: 4, optimizerReset: "magnitude:2" },
      /--optimizer-reset must be .*magnitude:0.9, not "magnitude:2"/,
    ],
    [{ restartEvery: 4, optimizerReset: "random:" }, /--optimizer-reset must be/],
    [{ restartEvery: 4, optimizerReset: "reset:0.5" }, /--optimizer-reset must be/],
    [{ restartEvery: 4, optimizerReset: "some" }, /--optimizer-reset must be/],
  ] as const)("%o", (flags, message) => {
    expect(() => restartOf(flags, "lora")).toThrow(message)
    expect(() => restartOf(flags, "lora")).toThrow(/E_OPTION/)
  })

  it.each([
    ["--restart-every 0", /--restart-every must be a whole number at least 1/],
    ["--restart-every 4 --method full", /--method full has none/],
    ["--restart-every 10", /every 10 steps, but the run has 10, so that none would/],
  ])("%s leaves no trace", async (flags, message) => {
    const output = work.path("refused")
    const base = ["train", "--model", work.model, "--data", work.rows, "--max-steps", "10"]
    const { code, stderr } = await peft(...base, ...flags.split(" "), "--output", output)
    expect(code).toBe(1)
    expect(stderr).toMatch(message)
    expect(stderr).toContain("E_OPTION")
    expect(existsSync(output)).toBe(false)
  })
})
