/** `--backend`, its limit, and `peft doctor`. */
import { existsSync } from "node:fs"
import { backends } from "@peftjs/tests/backends"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import type { Survey } from "../src/survey.ts"
import { type Finished, finish, makeWorkplace, peft, peftJson, start, type Workplace } from "./run-peft.ts"

// A driver that computes on the CPU compiles every kernel first, and is slow.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let work: Workplace
beforeAll(() => {
  work = makeWorkplace()
})
afterAll(() => work.remove())

const evaluate = (...more: string[]): string[] => [
  ...["eval", "--model", work.model, "--data", work.rows, "--max-eval-samples", "4", "--batch-size", "1", ...more],
]
const without = { PEFT_VULKAN: "/no/such/folder", PEFTJS_CACHE: "/no/such/cache" }

function expectRefusal({ code, stdout, stderr }: Finished, error: string, hint: RegExp): void {
  expect(stderr).toContain(`(${error})`)
  expect(stderr).toMatch(hint)
  expect([code, stdout]).toEqual([1, ""])
}

describe.concurrent("bad input", () => {
  it("a backend that does not exist: the message lists those that do", async () =>
    expectRefusal(
      await peft(...evaluate("--backend", "rocm")),
      "E_OPTION",
      /Allowed choices are cpu, webgpu, cuda, auto/,
    ))

  it("a device of a backend that has none to choose", async () =>
    expectRefusal(
      await peft(...evaluate("--device", "cpu")),
      "E_OPTION",
      /--device cpu is an option of --backend cuda/,
    ))

  it("a TensorFlow that is not there", async () =>
    expectRefusal(
      await finish(start(evaluate("--backend", "cuda"), undefined, { PEFT_TENSORFLOW: "/no/such/tensorflow" })),
      "E_TENSORFLOW",
      /PEFT_TENSORFLOW is \/no\/such\/tensorflow/,
    ))

  it("a limit that is no size", async () => {
    for (const size of ["12X", "0", "-1", "many"])
      expectRefusal(await peft(...evaluate("--max-buffer-bytes", size)), "E_OPTION", /16777216, 16MiB or 2GB/)
  })

  it("a limit that one row does not fit into", async () =>
    expectRefusal(await peft(...evaluate("--max-buffer-bytes", "100")), "E_BUFFER_SIZE", /100/))

  it.runIf(process.platform === "linux")("a driver's folder that is not there", async () =>
    expectRefusal(
      await finish(start(evaluate("--backend", "webgpu"), undefined, without)),
      "E_NO_DEVICE",
      /\/no\/such\/folder has no Vulkan driver/,
    ),
  )
})

it.runIf(process.platform === "linux")("auto takes the CPU where there is no GPU, and says why", async () => {
  const { code, stdout, stderr } = await finish(start(evaluate("--backend", "auto", "--json"), undefined, without))
  expect([code, stderr]).toEqual([0, expect.stringMatching(/backend cpu: webgpu is not used: \/no\/such\/folder/)])
  expect(JSON.parse(stdout)).toEqual(await peftJson(...evaluate()))
})

it("smaller buffers change nothing, by option or by environment", async () => {
  const [plain, limited] = await Promise.all([
    peftJson<{ loss: number }>(...evaluate()),
    peftJson<{ loss: number }>(...evaluate("--max-buffer-bytes", "100KiB")),
  ])
  expect(limited.loss).toBeCloseTo(plain.loss, 5)
  const tooSmall = await finish(start(evaluate(), undefined, { PEFT_MAX_BUFFER: "100" }))
  expectRefusal(tooSmall, "E_BUFFER_SIZE", /100/)
})

describe("doctor", () => {
  it.runIf(process.platform === "linux")("tells what there is and what is missing, and ends with 0", async () => {
    const { code, stdout } = await finish(start(["doctor", "--json"], undefined, without))
    expect(code).toBe(0)
    const survey = JSON.parse(stdout) as Survey
    expect(survey.node).toBe(process.version)
    expect(survey.cpu.blas).toMatchObject({ problem: expect.stringContaining("PEFT_BLAS") })
    expect(survey.cpu.wasm).toMatchObject({ kernels: "wasm" })
    expect("gflops" in survey.cpu.wasm && survey.cpu.wasm.gflops).toBeGreaterThan(0)
    expect(survey.webgpu).toEqual({ adapters: [], missing: expect.stringContaining("/no/such/folder") })
    expect(survey.auto).toMatchObject({ backend: "cpu", why: expect.stringContaining("/no/such/folder") })
    expect(survey.models.models).toBe(0)
    expect(survey.memory.total_mb).toBeGreaterThan(survey.memory.free_mb)
  })

  it("a TensorFlow that is named and not there", async () => {
    const { code, stdout } = await finish(
      start(["doctor", "--json"], undefined, { PEFT_TENSORFLOW: "/no/such/tensorflow" }),
    )
    expect(code).toBe(0)
    expect((JSON.parse(stdout) as Survey).cuda).toEqual({ missing: expect.stringContaining("/no/such/tensorflow") })
  })

  it("for people", async () => {
    const { code, stdout } = await peft("doctor")
    expect(code).toBe(0)
    for (const part of ["peft", "processor", "memory", "cpu", "webgpu", "cuda", "auto", "models"])
      expect(stdout).toMatch(new RegExp(`^${part} `, "m"))
  })
})

it.runIf(process.platform === "linux" && process.arch === "x64")(
  "setup tells what it would fetch, and fetches nothing",
  async () => {
    const cache = { PEFTJS_CACHE: work.path("cache") }
    const { code, stdout } = await finish(start(["setup", "cuda", "--dry-run", "--json"], undefined, cache))
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      folder: expect.stringMatching(/cache\/tensorflow\/tensorflow-2\.18\.1-[0-9a-f]{12}$/),
      there: false,
      steps: [expect.stringMatching(/^fetch tensorflow==2\.18\.1, nvidia-cublas-cu12/), "test it"],
    })
    expect(existsSync(work.path("cache"))).toBe(false)
  },
)

const { webgpu } = backends
const absent = webgpu && "absent" in webgpu ? webgpu.absent : undefined

describe.skipIf(absent)(`webgpu${absent ? `: ${absent}` : ""}`, () => {
  it("evaluates and trains as the CPU does, and names its device", async () => {
    const train = [
      "train",
      "--model",
      work.model,
      "--data",
      work.rows,
      "--r",
      "4",
      "--max-steps",
      "3",
      "--batch-size",
      "2",
    ]
    type Trained = { loss: number; kernels: string }
    const run = (backend: string): Promise<Trained> =>
      peftJson<Trained>(...train, "--backend", backend, "--output", work.path(backend))
    const [cpu, gpu] = [await run("cpu"), await run("webgpu")]
    expect(Math.abs(gpu.loss - cpu.loss) / cpu.loss).toBeLessThan(1e-3)
    expect(cpu.kernels).toMatch(/^wasm/)
    expect(gpu.kernels).toMatch(/^webgpu \(.+\)$/)
    const [here, there] = await Promise.all(
      ["cpu", "webgpu"].map((backend) => peftJson<{ loss: number }>(...evaluate("--backend", backend))),
    )
    expect(Math.abs((there?.loss ?? 0) / (here?.loss ?? 1) - 1)).toBeLessThan(1e-4)
  })

  it("doctor lists it, with features, limits and a self-test", async () => {
    const { webgpu, auto } = await peftJson<Survey>("doctor")
    expect(webgpu.missing).toBeUndefined()
    expect(webgpu.self_test).toBe("passed")
    const [adapter] = webgpu.adapters
    expect(adapter?.limits.maxBufferSize).toBeGreaterThan(0)
    // A driver that computes on the CPU is never chosen over our kernels there.
    expect(auto.backend).toBe(adapter?.software ? "cpu" : "webgpu")
  })
})
