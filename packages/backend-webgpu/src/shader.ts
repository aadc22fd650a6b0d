/** The text of a program: declarations around its body. Knows WGSL's form, not what any kernel computes. */
import type { Binding, Program } from "./gpu.ts"

/** WGSL of a program. Bindings are numbered inputs first, then outputs; the uniform block is a group of its own, bound at an offset. */
export function shaderOf(program: Program): string {
  const { inputs, outputs, params, workgroupSize, helpers = "", body, needs = [] } = program
  const subgroups = needs.includes("subgroups")
  const declare = (access: string, first: number) => (b: Binding, i: number) =>
    `@group(0) @binding(${first + i}) var<storage, ${access}> ${b.name}: array<${b.type}>;`
  const [x, y = 1] = workgroupSize
  const size = x * y
  return [
    subgroups ? "enable subgroups;" : "",
    ...inputs.map(declare("read", 0)),
    ...outputs.map(declare("read_write", inputs.length)),
    // Never empty: every program has the number of workgroups in a row of the dispatch.
    `struct Params { ${[...params.map((p) => `${p.name}: ${p.type}`), "groups_per_row: u32"].join(", ")} }`,
    "@group(1) @binding(0) var<uniform> p: Params;",
    helpers,
    `@compute @workgroup_size(${x}, ${y})`,
    `fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u, @builtin(local_invocation_index) lane: u32${
      subgroups
        ? ", @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32"
        : ""
    }) {`,
    `let group_index = group.y * p.groups_per_row + group.x;`,
    `let index = group_index * ${size}u + lane;`,
    body,
    "}",
  ].join("\n")
}
