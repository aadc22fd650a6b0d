/** What the normalisations of rows share: operands of any float type, parameters rows, n and eps, a workgroup per row. */
import type { DeviceBuffer } from "@peftjs/core"
import type { Gpu, Program } from "./gpu.ts"
import { u32s } from "./launch.ts"
import { type RowGroup, rowGroup } from "./row-group.ts"
import { loaders, storageOf } from "./words.ts"

export interface RowText extends RowGroup {
  /** Runs a statement for each column i of the row, which begins at `start`. */
  overRow(statement: string): string
}

/** A program [rows, n] → [rows, n], `result`; `text` gives reducers and what is done with a row. */
export function rowsProgram(
  gpu: Gpu,
  kernel: string,
  names: readonly string[],
  inputs: readonly DeviceBuffer[],
  n: number,
  text: (group: RowText) => { helpers: string; body: string },
): Program {
  const group = rowGroup(gpu, n)
  const operands = names.map((name, k) => ({ name, dtype: (inputs[k] as DeviceBuffer).dtype }))
  return gpu.program(`${kernel} ${operands.map((x) => x.dtype)} ${group.lanes}`, () => {
    const overRow = (statement: string): string => `for (var i = lane; i < p.n; i += ${group.lanes}u) { ${statement} }`
    const { helpers, body } = text({ ...group, overRow })
    return {
      inputs: operands.map(({ name, dtype }) => ({ name, type: storageOf(dtype) })),
      outputs: [{ name: "result", type: "f32" }],
      params: [...u32s("rows", "n"), { name: "eps", type: "f32" }],
      workgroupSize: [group.lanes],
      needs: group.needs,
      helpers: `${loaders(operands)}\n${helpers}`,
      body: `if (group_index >= p.rows) { return; }\nlet start = group_index * p.n;\n${body}`,
    }
  })
}
