/** Rows of a table by their numbers, and the gradient of that: rows added up where their numbers say. */

import type { DType, RequiredKernels } from "@peftjs/core"
import { invariant } from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { loaders, storageOf } from "./words.ts"

export function createGather(gpu: Gpu): RequiredKernels["gather"] {
  return (table, ids, { rows, width, n }) => {
    invariant(
      table.length === rows * width && ids.length === n,
      `backend-webgpu: gather ${ids.length} of ${table.length} elements as [${rows}, ${width}]`,
    )
    const program = gpu.program(`gather ${table.dtype}`, () => ({
      inputs: [
        { name: "table", type: storageOf(table.dtype) },
        { name: "ids", type: "i32" },
      ],
      outputs: [{ name: "result", type: "f32" }],
      params: u32s("count", "width"),
      workgroupSize: [threads],
      helpers: loaders([{ name: "table", dtype: table.dtype }]),
      body: `if (index >= p.count) { return; }
result[index] = load_table(u32(ids[index / p.width]) * p.width + index % p.width);`,
    }))
    const options = { inputs: [table, ids], params: [n * width, width], groups: groupsFor(n * width) }
    return produce(gpu, program, options, "f32", n * width)
  }
}

/**
 * Without float atomics, which would add up in any order: equal ids are linked in a list in the order of i, and the invocations of the
 * first of them walk it.
 */
export function createScatterAdd(gpu: Gpu): RequiredKernels["scatterAdd"] {
  return (x, ids, { rows, width, n }) => {
    invariant(
      x.length === n * width && ids.length === n,
      `backend-webgpu: scatterAdd of ${x.length} elements as [${n}, ${width}]`,
    )
    gpu.own(x)
    gpu.own(ids)
    const zeros = { inputs: [], params: [rows * width], groups: groupsFor(rows * width) }
    const out = produce(gpu, zeroProgram(gpu), zeros, "f32", rows * width)
    if (n * width === 0) return out
    const links = produce(gpu, linkProgram(gpu), { inputs: [ids], params: [n], groups: groupsFor(n) }, "u32", n)
    gpu.update(addProgram(gpu, x.dtype), {
      inputs: [x, ids, links],
      targets: [out],
      params: [n * width, width],
      groups: groupsFor(n * width),
    })
    gpu.free(links)
    return out
  }
}

function zeroProgram(gpu: Gpu): Program {
  return gpu.program("scatterAdd zeros", () => ({
    inputs: [],
    outputs: [{ name: "result", type: "f32" }],
    params: u32s("count"),
    workgroupSize: [threads],
    body: "if (index < p.count) { result[index] = 0.0; }",
  }))
}

/** links[i]: how far it is to the next equal id, 0 at the last; the high bit marks those that are not the first. */
function linkProgram(gpu: Gpu): Program {
  return gpu.program("scatterAdd links", () => ({
    inputs: [{ name: "ids", type: "i32" }],
    outputs: [{ name: "links", type: "u32" }],
    params: u32s("n"),
    workgroupSize: [threads],
    body: `if (index >= p.n) { return; }
let id = ids[index];
var link = 0u;
for (var i = index + 1u; i < p.n; i++) {
  if (ids[i] == id) { link = i - index; break; }
}
for (var i = 0u; i < index; i++) {
  if (ids[i] == id) { link |= 0x80000000u; break; }
}
links[index] = link;`,
  }))
}

function addProgram(gpu: Gpu, dtype: DType): Program {
  return gpu.program(`scatterAdd ${dtype}`, () => ({
    inputs: [
      { name: "x", type: storageOf(dtype) },
      { name: "ids", type: "i32" },
      { name: "links", type: "u32" },
    ],
    outputs: [{ name: "result", type: "f32" }],
    params: u32s("count", "width"),
    workgroupSize: [threads],
    helpers: loaders([{ name: "x", dtype }]),
    body: `if (index >= p.count) { return; }
let first = index / p.width;
let column = index % p.width;
var link = links[first];
if (link >= 0x80000000u) { return; }
var sum = load_x(index);
var at = first;
while (link != 0u) {
  at += link;
  sum += load_x(at * p.width + column);
  link = links[at] & 0x7fffffffu;
}
result[u32(ids[first]) * p.width + column] = sum;`,
  }))
}
