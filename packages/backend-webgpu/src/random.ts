/** Random bits: Threefry-2x32 with 20 rounds, word for word as core's randomWords. An invocation makes a block of two words. */
import type { RequiredKernels } from "@peftjs/core"
import type { Gpu } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"

const round = `fn turn(x: vec2u, by: u32) -> vec2u {
  let sum = x.x + x.y;
  return vec2u(sum, ((x.y << by) | (x.y >> (32u - by))) ^ sum);
}`

export function createRandomBits(gpu: Gpu): RequiredKernels["randomBits"] {
  return (key, n) => {
    const program = gpu.program("randomBits", () => ({
      inputs: [],
      outputs: [{ name: "result", type: "u32" }],
      params: u32s("n", "key0", "key1"),
      workgroupSize: [threads],
      helpers: round,
      body: `if (index * 2u >= p.n) { return; }
var keys = vec3u(p.key0, p.key1, 0x1bd11bdau ^ p.key0 ^ p.key1);
var x = vec2u(index, 0u) + keys.xy;
for (var step = 1u; step <= 5u; step++) {
  let r = select(vec4u(17u, 29u, 16u, 24u), vec4u(13u, 15u, 26u, 6u), (step & 1u) == 1u);
  x = turn(turn(turn(turn(x, r.x), r.y), r.z), r.w);
  keys = keys.yzx;
  x += keys.xy + vec2u(0u, step);
}
result[index * 2u] = x.x;
if (index * 2u + 1u < p.n) { result[index * 2u + 1u] = x.y; }`,
    }))
    const params = [n, key[0] >>> 0, key[1] >>> 0]
    return produce(gpu, program, { inputs: [], params, groups: groupsFor(Math.ceil(n / 2)) }, "u32", n)
  }
}
