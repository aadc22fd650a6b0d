/** `peft train --replicas`: threads that share the rows of every step. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { finish, makeWorkplace, metricsIn, peft, peftJson, start, type Workplace } from "./run-peft.ts"

const recipe =
  "--r 4 --alpha 8 --dropout 0.1 --max-steps 8 --batch-size 3 --gradient-accumulation-steps 2 --learning-rate 3e-3 --seed 11 --save-steps 2"

// Every test starts processes, and shares the machine with other tests.
vi.setConfig({ testTimeout: 240_000, hookTimeout: 240_000 })

let work: Workplace
let train: string[]
beforeAll(async () => {
  work = makeWorkplace()
  train = ["train", "--model", work.model, "--data", work.rows, ...recipe.split(" ")]
  await peftJson(...train, "--output", work.path("alone"))
})
afterAll(() => work.remove())

const adapterIn = (output: string): Buffer => readFileSync(join(output, "adapter", "adapter_model.safetensors"))

function expectAlike(output: string): void {
  const [found, alone] = [metricsIn(output), metricsIn(work.path("alone"))]
  expect(found).toHaveLength(alone.length)
  for (const [i, { loss }] of found.entries()) expect(Math.abs(loss / (alone[i]?.loss ?? 0) - 1)).toBeLessThan(1e-5)
}

describe.concurrent("replicas", () => {
  it.each([2, 4])("%i of them have the losses of one", async (count) => {
    const output = work.path(`replicas-${count}`)
    const { code, stdout, stderr } = await peft(...train, "--output", output, "--replicas", String(count), "--json")
    expect(stderr).not.toContain("peft:")
    expect(code).toBe(0)
    expect(JSON.parse(stdout).steps).toBe(8)
    // Only one of them speaks.
    expect(stderr.match(/rows, 8 steps/g)).toHaveLength(1)
    expectAlike(output)
  })

  it("stop together after Ctrl-C, and go on bit-equal", async () => {
    const [whole, output] = [work.path("two-whole"), work.path("two-stopped")]
    const two = [...train, "--replicas", "2"]
    await peftJson(...two, "--output", whole)
    const child = start([...two, "--output", output, "--json"])
    const ended = finish(child)
    while (child.exitCode === null && metricsIn(output).length < 3) await new Promise((done) => setTimeout(done, 2))
    child.kill("SIGINT")
    const { code, stderr } = await ended
    expect(code).toBe(130)
    expect(stderr).toContain(`--resume ${output}`)
    await peftJson(...two, "--output", output, "--resume", output)
    expect(adapterIn(output).equals(adapterIn(whole))).toBe(true)
  })

  it("what does not fit together is refused, and nothing is made", async () => {
    const output = work.path("never")
    const mixed = await peft(...train, "--output", output, "--replicas", "2", "--distributed", "mpi")
    expect([mixed.code, mixed.stderr]).toEqual([1, expect.stringContaining("(E_OPTION)")])
    const none = await peft(...train, "--output", output, "--replicas", "0")
    expect([none.code, none.stderr]).toEqual([1, expect.stringContaining("(E_OPTION)")])
    const broken = await peft(...train, "--output", output, "--replicas", "2", "--model", work.path("no-such-model"))
    expect(broken.code).toBe(1)
    expect(existsSync(output)).toBe(false)
  })

  it("a library of MPI that is not there is named", async () => {
    const child = start([...train, "--output", work.path("no-mpi"), "--distributed", "mpi"], undefined, {
      PEFT_MPI: work.path("libmpi.so"),
    })
    const { code, stderr } = await finish(child)
    expect(code).toBe(1)
    expect(stderr).toContain("(E_MPI)")
  })
})
