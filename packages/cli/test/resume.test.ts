import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { finish, makeWorkplace, metricsIn, peft, peftJson, start, type Workplace } from "./run-peft.ts"

/** Everything with state is on: shuffling, dropout, accumulation, moments, warm-up; epochs end in the middle of the run. */
const recipe =
  "--r 4 --alpha 8 --dropout 0.1 --max-steps 30 --batch-size 3 --gradient-accumulation-steps 2 --learning-rate 3e-3 " +
  "--lr-scheduler cosine --warmup-steps 5 --weight-decay 0.01 --seed 11 --save-steps 4"

// Every test starts processes, and shares the machine with other tests.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

let work: Workplace
let train: string[]
beforeAll(async () => {
  work = makeWorkplace()
  train = ["train", "--model", work.model, "--data", work.rows, ...recipe.split(" ")]
  await peftJson(...train, "--output", work.path("whole"))
})
afterAll(() => work.remove())

const adapterIn = (output: string): Buffer => readFileSync(join(output, "adapter", "adapter_model.safetensors"))

function expectWhole(output: string): void {
  expect(adapterIn(output).equals(adapterIn(work.path("whole")))).toBe(true)
  expect(metricsIn(output)).toEqual(metricsIn(work.path("whole")))
}

/** Starts the run and ends it when its metrics show the step. */
async function stopped(output: string, signal: NodeJS.Signals, step: number): ReturnType<typeof finish> {
  const child = start([...train, "--output", output, "--json"])
  const ended = finish(child)
  while (child.exitCode === null && metricsIn(output).length < step) await new Promise((done) => setTimeout(done, 2))
  child.kill(signal)
  return ended
}

describe.concurrent("a run that was stopped goes on bit-equal", () => {
  it("after Ctrl-C, which saves, says how, and ends with 130", async () => {
    const output = work.path("interrupted")
    const { code, stdout, stderr } = await stopped(output, "SIGINT", 7)
    const { steps, interrupted } = JSON.parse(stdout)
    expect([code, interrupted]).toEqual([130, true])
    expect(steps).toBe(metricsIn(output).length)
    expect(stderr).toContain(`--resume ${output}`)
    await peftJson(...train, "--output", output, "--resume", output)
    expectWhole(output)
  })

  it("after kill -9, losing the steps since the last checkpoint", async () => {
    const output = work.path("killed")
    const { code } = await stopped(output, "SIGKILL", 10)
    expect(code).toBe(null)
    writeFileSync(join(output, "adapter", ".adapter_config.json.0123456789ab.tmp"), "{")
    const { steps } = await peftJson<{ steps: number }>(...train, "--output", output, "--resume", output)
    expect(steps).toBe(30)
    expectWhole(output)
    expect(readdirSync(join(output, "adapter")).filter((name) => name.startsWith("."))).toEqual([])
  })

  it("after kill -9 before the first checkpoint, from the beginning", async () => {
    const output = work.path("early")
    await stopped(output, "SIGKILL", 1)
    await peftJson(...train, "--output", output, "--resume", output)
    expectWhole(output)
  })

  it("into another folder, leaving the first as it is", async () => {
    const [from, output] = [work.path("left"), work.path("moved")]
    await stopped(from, "SIGTERM", 9)
    const left = metricsIn(from)
    await peftJson(...train, "--output", output, "--resume", from)
    expectWhole(output)
    expect(metricsIn(from)).toEqual(left)
  })

  it("but not with other options: refused, naming what differs", async () => {
    const whole = work.path("whole")
    const { code, stderr } = await peft(...train, "--output", whole, "--resume", whole, "--learning-rate", "1e-4")
    expect(code).toBe(1)
    expect(stderr).toMatch(/learningRate.*0\.003.*0\.0001.*\(E_RESUME\)/)
    const packed = await peft(...train, "--output", whole, "--resume", whole, "--weights", "nf4")
    expect([packed.code, packed.stderr]).toEqual([
      1,
      expect.stringMatching(/weights was nothing, now .*nf4.*\(E_RESUME\)/),
    ])
    expect(metricsIn(whole)).toHaveLength(30)
  })
})
