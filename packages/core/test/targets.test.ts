import { cpu } from "@peftjs/backend-cpu"
import {
  bindModel,
  fromPattern,
  isPeftError,
  type Match,
  type Model,
  matchTargets,
  requireMatches,
  type Site,
  shortestSuffixes,
  type Targets,
  tensor,
  uploadDense,
} from "@peftjs/core"
import { expect, test } from "vitest"
import golden from "./fixtures/targets.json" with { type: "json" }

const backend = await cpu({ kernels: "reference" })
const paths = [
  ...[0, 1, 11].flatMap((i) =>
    ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"].map((p) => `model.layers.${i}.${p}`),
  ),
  "visual.blocks.1.q_proj",
]
const base = uploadDense(backend, new Float32Array(4), "f32", [2, 2])
const site = (path: string, kind: Site["kind"] = "linear"): [string, Site] => [
  path,
  { path, kind, in: 2, out: 2, param: `${path}.weight`, base },
]
const modelOf = (linear: readonly string[]): Model =>
  bindModel({
    backend,
    config: {},
    name: "toy",
    sites: new Map([site("model.embed_tokens", "embedding"), ...linear.map((p) => site(p))]),
    params: new Map([["model.layers.0.input_layernorm.weight", tensor(backend, [1, 1], [2])] as const]),
    head: "lm_head",
    hidden: () => {
      throw new Error("not run")
    },
    makeCache: () => {
      throw new Error("not run")
    },
  })
const model = modelOf([...paths, "lm_head"])
const match = (targets: Targets): Match => matchTargets(model, targets)
const code = (body: () => unknown): string => {
  try {
    body()
  } catch (error) {
    if (isPeftError(error)) return error.code
    throw error
  }
  return "nothing thrown"
}

test("a list matches whole suffixes and exact paths", () => {
  expect(match({ targetModules: ["q_proj"] }).sites).toHaveLength(4)
  expect(match({ targetModules: ["proj"] })).toEqual({ sites: [], unmatched: ["proj"] })
  expect(match({ targetModules: ["layers.1.self_attn.q_proj"] }).sites).toEqual(["model.layers.1.self_attn.q_proj"])
  expect(match({ targetModules: ["lm_head", "q_prj"] })).toEqual({ sites: ["lm_head"], unmatched: ["q_prj"] })
})

test("a string is a regular expression over the whole path", () => {
  expect(match({ targetModules: ".*layers\\.(0|11)\\..*(q|v)_proj" }).sites).toHaveLength(4)
  expect(match({ targetModules: "q_proj" }).sites).toEqual([])
  expect(match({ targetModules: "(?P<any>.*)down_proj" }).sites).toHaveLength(3)
  expect(code(() => match({ targetModules: "(" }))).toBe("E_REGEX")
})

test("all-linear takes every linear layer but the head", () => {
  expect(match({ targetModules: "ALL-linear" }).sites).toEqual(paths)
})

test("exclusion comes first, by suffix or regular expression", () => {
  expect(match({ targetModules: "all-linear", excludeModules: ["down_proj"] }).sites).toHaveLength(7)
  expect(match({ targetModules: ["q_proj"], excludeModules: "visual\\..*" }).sites).toHaveLength(3)
})

test("layers count by the first number, or by the pattern's; exact paths escape the filter", () => {
  expect(match({ targetModules: ["q_proj"], layersToTransform: 1 }).sites).toEqual([
    "model.layers.1.self_attn.q_proj",
    "visual.blocks.1.q_proj",
  ])
  expect(match({ targetModules: ["q_proj"], layersToTransform: [1], layersPattern: "layers" }).sites).toEqual([
    "model.layers.1.self_attn.q_proj",
  ])
  expect(match({ targetModules: ["q_proj", "model.layers.0.mlp.down_proj"], layersToTransform: [11] }).sites).toEqual([
    "model.layers.0.mlp.down_proj",
    "model.layers.11.self_attn.q_proj",
  ])
  expect(match({ targetModules: ["lm_head"], layersToTransform: [1] }).sites).toEqual(["lm_head"])
})

test("what PEFT refuses is refused, and an entry that selects nothing names near misses", () => {
  expect(code(() => match({}))).toBe("E_TARGET")
  expect(code(() => match({ targetModules: ".*q_proj", layersToTransform: [0] }))).toBe("E_TARGET")
  expect(code(() => match({ targetModules: ["q_proj"], layersPattern: "layers" }))).toBe("E_TARGET")
  const wrong = { targetModules: ["q_proj", "v_prog"] }
  expect(() => requireMatches(model, wrong, match(wrong))).toThrow(/"v_prog" selects no layer; did you mean .*v_proj/)
})

test("the shortest suffixes select the same layers again", () => {
  for (const targetModules of ["all-linear", ".*layers\\.1.*q_proj", ".*q_proj", ".*layers\\.(0|1)\\.mlp.*"]) {
    const { sites } = match({ targetModules })
    expect(match({ targetModules: shortestSuffixes(model, sites) }).sites).toEqual(sites)
  }
  expect(shortestSuffixes(model, match({ targetModules: ["q_proj"] }).sites)).toEqual(["q_proj"])
  expect(shortestSuffixes(model, ["model.layers.1.self_attn.q_proj"])).toEqual(["1.self_attn.q_proj"])
})

test("patterns take the first key that matches", () => {
  const ranks = { ".*1.*v_proj": 6, "layers.0.self_attn.q_proj": 2, q_proj: 5 }
  const at = (path: string): number => fromPattern(ranks, path, 8)
  expect(
    [
      "model.layers.1.self_attn.v_proj",
      "model.layers.0.self_attn.q_proj",
      "model.layers.1.self_attn.q_proj",
      "x.k_proj",
    ].map(at),
  ).toEqual([6, 2, 5, 8])
  expect(at("model.layers.0.self_attn.xq_proj")).toBe(8)
})

test("300 random configs select what PEFT selects", () => {
  const same = modelOf(golden.paths)
  for (const { sites, error, ...config } of golden.targets as GoldenCase[]) {
    const targets = {
      ...(config.target_modules ? { targetModules: config.target_modules } : {}),
      ...(config.exclude_modules ? { excludeModules: config.exclude_modules } : {}),
      ...(config.layers_to_transform === undefined ? {} : { layersToTransform: config.layers_to_transform }),
      ...(config.layers_pattern?.length ? { layersPattern: config.layers_pattern } : {}),
    }
    if (error)
      expect(
        code(() => matchTargets(same, targets)),
        JSON.stringify(config),
      ).toBe("E_TARGET")
    else expect(matchTargets(same, targets).sites, JSON.stringify(config)).toEqual(sites)
  }
})

test("80 random patterns pick the key that PEFT picks", () => {
  for (const { keys, path, key } of golden.patterns) {
    expect(fromPattern(Object.fromEntries(keys.map((k) => [k, k])), path, null), `${keys} at ${path}`).toBe(key)
  }
})

interface GoldenCase {
  target_modules: string | string[]
  exclude_modules?: string | string[]
  layers_to_transform?: number | number[]
  layers_pattern?: string | string[]
  sites?: string[]
  error?: boolean
}
