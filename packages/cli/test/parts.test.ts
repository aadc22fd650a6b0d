import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { lora } from "@peftjs/lora"
import { describe, expect, it } from "vitest"
import { adaptOptions, parseTargets } from "../src/adapter-options.ts"
import { withConfigFile } from "../src/config-file.ts"
import { makeMethod, methodFactory } from "../src/method.ts"
import { pairs } from "../src/options.ts"
import { duration, makeProgress } from "../src/progress.ts"

describe("parseTargets", () => {
  it.each([
    ["all-linear", "all-linear"],
    ["q_proj", ["q_proj"]],
    ["q_proj, layers.0.mlp.up_proj", ["q_proj", "layers.0.mlp.up_proj"]],
    [String.raw`.*\.(q|v)_proj`, String.raw`.*\.(q|v)_proj`],
    [".*layers.{1,2}.*", ".*layers.{1,2}.*"],
  ])("%s", (text, targetModules) => expect(parseTargets(text)).toEqual({ targetModules }))
})

describe("adaptOptions", () => {
  it.each<[object, object]>([
    [{}, { targetModules: "all-linear" }],
    [
      { targetModules: "q_proj", excludeModules: "layers.0.self_attn.q_proj, x" },
      { targetModules: ["q_proj"], excludeModules: ["layers.0.self_attn.q_proj", "x"] },
    ],
    [{ excludeModules: ".*down.*" }, { targetModules: "all-linear", excludeModules: ".*down.*" }],
    [
      { layersToTransform: "0, 2", layersPattern: "h" },
      { targetModules: "all-linear", layersToTransform: [0, 2], layersPattern: ["h"] },
    ],
    [
      { bias: "lora_only", modulesToSave: "lm_head,norm", ensureWeightTying: true },
      { targetModules: "all-linear", bias: "lora_only", modulesToSave: ["lm_head", "norm"], ensureWeightTying: true },
    ],
    [{ trainableTokenIndices: "5,9" }, { targetModules: "all-linear", trainableTokenIndices: [5, 9] }],
    [
      { trainableTokenIndices: '{"embed_tokens":[5],"lm_head":[9,0]}' },
      { targetModules: "all-linear", trainableTokenIndices: { embed_tokens: [5], lm_head: [9, 0] } },
    ],
  ])("%j", (flags, expected) => expect(adaptOptions(flags)).toEqual(expected))

  it.each([
    [{ layersToTransform: "one" }],
    [{ layersToTransform: "" }],
    [{ layersToTransform: "-1" }],
    [{ trainableTokenIndices: "5,,9" }],
    [{ trainableTokenIndices: '{"embed_tokens":5}' }],
    [{ trainableTokenIndices: "{embed_tokens:[5]}" }],
    [{ trainableTokenIndices: '{"embed_tokens":["x"]}' }],
  ])("refuses %j", (flags) => expect(() => adaptOptions(flags)).toThrow("E_OPTION"))
})

describe("a configuration file", () => {
  const argumentsOf = async (yaml: string): Promise<string[]> => {
    const folder = mkdtempSync(join(tmpdir(), "peft-config-"))
    try {
      writeFileSync(join(folder, "c.yaml"), yaml)
      return (await withConfigFile(["train", "--config", join(folder, "c.yaml")])).slice(1, -2)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  it.each([
    ["r: 4\nshuffle: false\njson: false\nbias:", ["--r", "4", "--no-shuffle"]],
    ["targetModules: [q_proj, v_proj]", ["--target-modules", "q_proj,v_proj"]],
    ["stop: [a, 'b,c']", ["--stop", "a", "--stop", "b,c"]],
    ["method_option: [a=1, b=x]", ["--method-option", "a=1", "--method-option", "b=x"]],
    ["method-option: {a: 1, b: [2]}", ["--method-option", "a=1", "--method-option", "b=[2]"]],
    ["lr-scheduler-option: {power: 2}", ["--lr-scheduler-option", "power=2"]],
  ])("%j", async (yaml, expected) => expect(await argumentsOf(yaml)).toEqual(expected))

  it.each(["stop: {a: 1}", "stop: [[a]]", "r: {a: 1}", "- r"])("refuses %j", (yaml) =>
    expect(argumentsOf(yaml)).rejects.toThrow("E_CONFIG_FILE"),
  )
})

describe("methods by name", () => {
  it("finds lora, and nothing that is no method", async () => {
    expect(await methodFactory("lora")).toBe(lora)
    await expect(methodFactory("node:fs")).rejects.toThrow("E_METHOD")
    await expect(methodFactory("commander")).rejects.toThrow(/exports no method.*E_METHOD/)
    await expect(methodFactory("../nowhere.js")).rejects.toThrow("E_METHOD")
  })

  it("parses values as JSON where it is JSON", () => {
    const given = ["a=1", "b=true", 'c={"q":2}', "d=gaussian", "e=x=y"]
    expect(pairs("--method-option", given)).toEqual({ a: 1, b: true, c: { q: 2 }, d: "gaussian", e: "x=y" })
    expect(() => pairs("--method-option", ["a"])).toThrow("E_OPTION")
  })

  it("takes the method's option names and PEFT's, over the defaults", () => {
    const given = { use_rslora: true, init_lora_weights: "gaussian", lora_alpha: 3, rankPattern: { q_proj: 2 } }
    const { config } = makeMethod(lora as never, given, { r: 5, alpha: 16, other: 1 })
    expect(config).toMatchObject({ r: 5, alpha: 3, rslora: true, init: "gaussian", rankPattern: { q_proj: 2 } })
    expect(makeMethod(lora as never, { use_qalora: false }).config).toMatchObject({ r: 8, alpha: 8 })
    expect(() => makeMethod(lora as never, { use_qalora: true })).toThrow("E_CONFIG_UNSUPPORTED")
  })
})

describe("progress", () => {
  const metrics = { step: 1, loss: 2, learning_rate: 1e-4, grad_norm: 1, tokens: 10, input_tokens: 100 }

  function record(isTTY: boolean): { text: () => string; advance: (ms: number) => void; show: (step: number) => void } {
    let [written, at] = ["", 0]
    const stream = { isTTY, write: (piece: string): unknown => (written += piece) }
    const progress = makeProgress(4, stream, () => at)
    return { text: () => written, advance: (ms) => (at += ms), show: (step) => progress.step({ ...metrics, step }) }
  }

  it("rewrites one line on a terminal", () => {
    const { text, advance, show } = record(true)
    for (const step of [1, 2]) {
      advance(500)
      show(step)
    }
    expect(text()).not.toContain("\n")
    expect(text().split("\r")).toHaveLength(3)
    expect(text()).toMatch(/200 tokens\/s {2}ETA 1 s$/)
  })

  it("prints the first line, the last, and one every ten seconds elsewhere", () => {
    const { text, advance, show } = record(false)
    for (const [step, ms] of [
      [1, 1000],
      [2, 1000],
      [3, 10_000],
      [4, 1000],
    ] as const) {
      advance(ms)
      show(step)
    }
    expect(text().match(/step \d/g)).toEqual(["step 1", "step 3", "step 4"])
  })

  it("says durations as people do", () => {
    expect([0.4, 59, 200, 7500].map(duration)).toEqual(["0 s", "59 s", "3 m 20 s", "2 h 5 m"])
  })
})
