/** Methods broken on purpose, and the check of the kit that is meant for each. */
import {
  type AdapterFormat,
  type AdapterMethod,
  assign,
  type Context,
  call,
  dropout,
  hold,
  input,
  map,
  type Params,
  param,
  scalar,
  type Tensor,
} from "@peftjs/core"
import { fakeBackend, type TestAdapterOptions, testAdapter } from "../src/index.ts"
import type { BrokenThing, BrokenThings } from "./broken-thing.ts"
import { collect } from "./collect.ts"

/** y = W x + B A x, nothing else. */
export const sound: AdapterMethod = {
  kind: "site",
  specVersion: 1,
  name: "sound",
  config: { r: 2 },
  sites: ["linear"],
  mergeable: true,
  init: ({ site, init }) => ({
    params: { A: param(init.uniform("A", [2, site.in], -0.5, 0.5)), B: param(init.zeros([site.out, 2])) },
  }),
  forward: (x, next, params) => next(x).add(update(x, params)),
}

const update = (x: Tensor, { A, B }: Params): Tensor => x.matmul((A as Tensor).T).matmul((B as Tensor).T)

const format: AdapterFormat = {
  peftType: "SOUND",
  defaults: {},
  supported: [],
  read: () => saved,
  write: () => ({}),
  tensorName: (name) => name,
}
/** The same with a file format. */
export const saved: AdapterMethod = { ...sound, format }

const kept: Tensor[] = []
const counted = { draws: 0, starts: 0 }
const drawn = (x: Tensor, { training }: Context): Tensor => (training ? dropout(x, 0.5, [7, counted.draws++]) : x)
const first = new Map<string, Params>()
const withoutNaN = (x: Tensor): Tensor =>
  map(call("select", call("eq", input(0), input(0)), input(0), scalar(0)), [x], { scalars: [0] })
const part = ({ base }: Context): Tensor => base.parts[0]?.tensor as Tensor

const forgetful: Partial<AdapterMethod> = {
  init: ({ site, init }) => ({
    params: {
      A: param(init.uniform("A", [2, site.in], -0.5, 0.5)),
      B: param(init.zeros([site.out, 2]), { saved: false }),
    },
  }),
}

const restless: Partial<AdapterMethod> = {
  prepare({ values }) {
    const factor = 1 + 0.01 * counted.starts++
    return { start: {}, residual: values.map((x) => x * factor) }
  },
}

interface Broken extends Omit<BrokenThing, "checks"> {
  readonly change: Partial<AdapterMethod>
  readonly options?: Partial<TestAdapterOptions>
}

const broken: Readonly<Record<string, Broken>> = {
  "not the identity at first": {
    check: "just initialised, it changes nothing",
    message: /^losses: value/,
    change: { forward: (x, next, params) => next(x).add(update(x, params)).mul(1.01) },
  },
  "a parameter that never learns": {
    check: "its trainable parameters get gradients, all of them, and nothing else does",
    message: /tensors got gradients, not/,
    change: { forward: (x, next, { A, B }) => next(x).add(update(x, { A: (A as Tensor).detach(), B: B as Tensor })) },
  },
  "a wrong gradient: one path of it is cut": {
    check: "gradients agree with finite differences",
    message: /finite differences say/,
    change: { forward: (x, next, params) => next(x).add(update(x, params).mul(update(x, params).detach().add(1))) },
  },
  "hidden global random state": {
    check: "a block that is computed again draws the same dropout and gives the same gradients",
    message: /value \d+ is|the loss is/,
    change: { forward: (x, next, params, context) => next(x).add(update(drawn(x, context), params)) },
  },
  "parameters drawn from a global generator": {
    check: "the same seed gives the same parameters",
    message: /\.A: value/,
    change: {
      init: ({ site, init }) => ({
        params: {
          A: param(init.uniform(`A${Math.random()}`, [2, site.in], -0.5, 0.5)),
          B: param(init.zeros([site.out, 2])),
        },
      }),
    },
  },
  "dropout in evaluation": {
    check: "without training it draws nothing: the same losses whatever the step",
    message: /^losses: value/,
    change: {
      forward: (x, next, params) => next(x).add(update(dropout(x, 0.5, [7, counted.draws++]), params)),
    },
  },
  "a tensor kept at every step": {
    check: "twenty steps lower the loss and leave no buffer behind",
    message: /buffers after two steps/,
    change: {
      forward(x, next, params) {
        kept.push(hold(x.mul(1)))
        return next(x).add(update(x, params))
      },
    },
  },
  "a tensor that detaching does not give back": {
    check: "disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory",
    message: /buffers were left behind/,
    change: {
      init(context) {
        kept.push(hold(context.init.zeros([context.site.out])))
        return sound.init(context)
      },
    },
  },
  "a base that is written when it is put on": {
    check: "disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory",
    message: /^disabled: value/,
    change: {
      init(context) {
        const { tensor } = context.site.base.parts[0] as { tensor: Tensor }
        assign(tensor, tensor.mul(1.001))
        return sound.init(context)
      },
    },
  },
  "a bias that is written when it runs and stays so when it is switched off": {
    check: "disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory",
    message: /^disabled: value/,
    change: {
      forward(x, next, params, { bias }) {
        if (bias) assign(bias, bias.add(0.01))
        return next(x).add(update(x, params))
      },
    },
  },
  "an input that is written": {
    check: "just initialised, it changes nothing",
    message: /^losses: value/,
    change: {
      forward(x, next, params) {
        const y = next(x).add(update(x, params))
        assign(x, x.mul(2))
        return y
      },
    },
  },
  "parameters of the adapter that came first at the same layer": {
    check: "stacked on itself: both learn, and without either the other is as if alone",
    message: /tensors got gradients, not/,
    change: {
      forward(x, next, params, { site }) {
        const own = first.get(site.path) ?? params
        first.set(site.path, own)
        return next(x).add(update(x, own))
      },
    },
  },
  "the base asked instead of what lies below": {
    check: "over another method: both learn, and without either the other is as if alone",
    message: /tensors got gradients, not/,
    change: {
      forward: (x, _, params, { base, bias }) => {
        const y = base.matmul(x).add(update(x, params))
        return bias ? y.add(bias) : y
      },
    },
  },
  "a bias taken for granted": {
    check: "on a linear layer without a bias alone: it sits there only, learns, merges and is saved",
    message: /undefined/,
    change: {
      forward: (x, next, params, { bias }) =>
        next(x)
          .sub(bias as Tensor)
          .add(bias as Tensor)
          .add(update(x, params)),
    },
  },
  "a base looked into as if it were one dense tensor": {
    check:
      "on weights in f32 in parts of five rows it computes and learns as on the same values in f32, if the backend has them",
    message: /^logits: value/,
    change: {
      forward: (x, next, params, context) => next(x).add(update(x, params).mul(part(context).square().mean())),
    },
  },
  "a method that is not affine and claims to merge": {
    check: "merged it computes the same on many inputs, and unmerged exactly what it did",
    message: /^logits: value/,
    // The identity, by which core probes, does not see it: 1·|1| = 1 and 0·|0| = 0.
    change: { forward: (x, next, params) => next(x).add(update(x.mul(x.abs()), params)) },
  },
  "NaN that merging does not see": {
    check: "NaN or Inf in a parameter refuses to merge, and nothing changes",
    message: /expected E_MERGE_NOT_FINITE, but nothing was thrown/,
    change: { forward: (x, next, params) => next(x).add(withoutNaN(update(x, params))) },
  },
  "a config that JSON cannot hold": {
    check: "its config survives JSON",
    message: /JSON (drops|loses)/,
    change: { config: { limit: Number.POSITIVE_INFINITY } },
  },
  "a config that is read as another method": {
    check: "the config on disk holds what PEFT wants to know, and describes the same method",
    message: /was read, not/,
    change: { format: { ...format, read: () => ({ ...saved, config: { r: 3 } }) } },
  },
  "a tensor saved under a wrong name": {
    check: "on disk every tensor is f32 under its module's path and its own name, the same for every adapter",
    message: /the tensors are called .*lora_A, .*not/,
    change: { format: { ...format, tensorName: (name) => (name === "A" ? "lora_A" : "lora_B.weight") } },
    options: { savedAs: ["lora_A.weight", "lora_B.weight"] },
  },
  "two tensors saved under one name": {
    check: "on disk every tensor is f32 under its module's path and its own name, the same for every adapter",
    message: /two parameters are called/,
    change: { format: { ...format, tensorName: () => "weight" } },
  },
  "a trained parameter that is not saved": {
    check: "saved and loaded it is equal, and saved again the same bytes",
    message: /^losses: value/,
    change: { ...forgetful, format: { ...format, read: () => ({ ...saved, ...forgetful }) } },
  },
  "a residual that is another one at every start": {
    check: "saved and loaded it is equal, and saved again the same bytes",
    message: /^losses: value/,
    change: { ...restless, format: { ...format, read: () => ({ ...saved, ...restless }) } },
  },
  "a residual that is not the base without the start": {
    check: "just initialised, it changes nothing",
    message: /^losses: value/,
    change: { prepare: ({ values }) => ({ start: {}, residual: values.map((x) => x * 0.9) }) },
  },
  "steps that go uphill": {
    check: "twenty steps lower the loss and leave no buffer behind",
    message: /the loss went from/,
    change: {
      afterStep: ({ sites, set }) => {
        for (const { params, gradients } of sites.values())
          for (const [key, g] of Object.entries(gradients)) set(params[key] as Tensor, (params[key] as Tensor).add(g))
      },
    },
  },
  "numbers that depend on the backend": {
    check: "twenty steps have the losses of fake",
    message: /^the loss of step/,
    change: {
      forward: (x, next, params) => next(x).add(update(x, params).mul(x.engine.backend.name === "fake" ? 1 : 1.2)),
    },
    options: { backends: { fake: () => fakeBackend(), other: () => ({ ...fakeBackend(), name: "other" }) } },
  },
}

export const brokenMethods: BrokenThings = Object.fromEntries(
  Object.entries(broken).map(([name, { change, options, ...meant }]) => {
    const all = { name, backends: { fake: () => fakeBackend() }, ...options }
    const checks: BrokenThing["checks"] = () =>
      collect((runner) => testAdapter({ ...sound, ...change }, { ...all, ...runner }))
    return [name, { ...meant, checks }]
  }),
)
