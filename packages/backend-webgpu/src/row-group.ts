/**
 * A workgroup that works on one row together: how many lanes it has and how they add up what each found.
 * Knows no kernel. Nothing is assumed of subgroups: neither their size nor which lanes are in one.
 */
import type { Gpu } from "./gpu.ts"

export type Fold = "sum" | "max"

export interface RowGroup {
  readonly lanes: number
  readonly needs: readonly "subgroups"[]
  /** Declares a reducer over all lanes. It may be called once per invocation, because its memory is written once. */
  reducer(name: string, fold: Fold, type?: string): string
  /** A call of it: the result, the same for every lane. Only in uniform control flow. */
  all(name: string, value: string): string
}

/** Lanes for rows of n elements. A driver on the CPU runs lanes one after another and pays for each at every barrier. */
export function rowGroup(gpu: Gpu, n: number): RowGroup {
  const { software, subgroups } = gpu.features
  const lanes = software ? 4 : n > 1024 ? 256 : 64
  if (!subgroups) return { lanes, needs: [], reducer: tree(lanes), all: (name, value) => `${name}(${value}, lane)` }
  return {
    lanes,
    needs: ["subgroups"],
    reducer: bySubgroups(lanes),
    all: (name, value) => `${name}(${value}, lane, subgroup_lane, subgroup_size)`,
  }
}

const combine = (fold: Fold, a: string, b: string): string => (fold === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`)

/**
 * Each subgroup leaves its result in the place of its first lane, with the neutral element beside it; then every subgroup folds all places.
 * Which lanes belong together does not matter so.
 */
const bySubgroups =
  (lanes: number) =>
  (name: string, fold: Fold, type = "f32"): string => {
    const subgroup = fold === "sum" ? "subgroupAdd" : "subgroupMax"
    const kept = fold === "sum" ? `select(${type}(0.0), own, subgroup_lane == 0u)` : "own"
    return `var<workgroup> ${name}_parts: array<${type}, ${lanes}>;
fn ${name}(value: ${type}, lane: u32, subgroup_lane: u32, subgroup_size: u32) -> ${type} {
  let own = ${subgroup}(value);
  ${name}_parts[lane] = ${kept};
  workgroupBarrier();
  var rest = ${name}_parts[subgroup_lane];
  for (var i = subgroup_lane + subgroup_size; i < ${lanes}u; i += subgroup_size) {
    rest = ${combine(fold, "rest", `${name}_parts[i]`)};
  }
  return ${subgroup}(rest);
}`
  }

/** Halving; where lanes are few, one barrier and every lane adds up all. */
const tree =
  (lanes: number) =>
  (name: string, fold: Fold, type = "f32"): string => {
    const parts = `${name}_parts`
    const halving = `for (var s = ${lanes / 2}u; s > 0u; s >>= 1u) {
    workgroupBarrier();
    if (lane < s) { ${parts}[lane] = ${combine(fold, `${parts}[lane]`, `${parts}[lane + s]`)}; }
  }
  workgroupBarrier();
  return ${parts}[0];`
    const oneByOne = `workgroupBarrier();
  var rest = ${parts}[0];
  for (var i = 1u; i < ${lanes}u; i++) { rest = ${combine(fold, "rest", `${parts}[i]`)}; }
  return rest;`
    return `var<workgroup> ${parts}: array<${type}, ${lanes}>;
fn ${name}(value: ${type}, lane: u32) -> ${type} {
  ${parts}[lane] = value;
  ${lanes > 16 ? halving : oneByOne}
}`
  }
