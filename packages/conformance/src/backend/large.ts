/**
 * More than 65 535 workgroups along one axis, which is as many as most devices start: over 4.2 million elements, 65 535 rows, products
 * or heads. Whole numbers are exact in f32, whatever is summed in whatever order.
 */
import type { Backend, DeviceBuffer, DType, TypedArray } from "@peftjs/core"
import { bytesPerElement, call, coordinate, hostArray, input, randomWords } from "@peftjs/core"
import type { Runner } from "../runner.ts"
import { manyHeads } from "./kernel-cases-attention.ts"
import { type RowKernel, type RowSizes, rowCases } from "./kernel-cases-fused.ts"
import { checkKernel, type KernelCase } from "./kernel-check.ts"

/** Rows and columns of a matrix of 4 270 061 elements. */
const [rows, width] = [70_001, 61]
const size = rows * width

/** Whole numbers whose repetition no power of two divides. */
function whole(n: number, dtype: DType = "f32"): TypedArray {
  const data = hostArray(dtype, n)
  for (let i = 0; i < n; i++) data[i] = (i % 1021) - 510
  return data
}

function filled(n: number, value: (i: number) => number): Float32Array {
  const out = new Float32Array(n)
  for (let i = 0; i < n; i++) out[i] = value(i)
  return out
}

type Buffers = readonly [DeviceBuffer, DeviceBuffer]

/** Made when they are run: they are large. */
const cases: Readonly<Record<string, () => KernelCase>> = {
  map: () => {
    const [x, y] = [whole(size), whole(width)]
    const expr = call("add", call("mul", input(0), coordinate(1)), input(1))
    return {
      label: `map [${rows}, ${width}]`,
      inputs: [{ data: x }, { data: y }],
      run: ({ kernels }, buffers) => {
        const [a, b] = buffers as Buffers
        const operands = [
          { buffer: a, shape: [rows, width] },
          { buffer: b, shape: [width] },
        ]
        return kernels.map(expr, operands, [], [rows, width], "f32")
      },
      expected: filled(size, (i) => (x[i] as number) * (i % width) + (y[i % width] as number)),
    }
  },
  "reduce of many rows": () => {
    const x = whole(size)
    const expected = filled(rows, () => 0)
    for (let i = 0; i < size; i++) {
      const row = Math.floor(i / width)
      expected[row] = (expected[row] as number) + (x[i] as number)
    }
    return {
      label: `sum of [${rows}, ${width}]`,
      inputs: [{ data: x }],
      run: ({ kernels }, [a]) => kernels.reduce("sum", a as DeviceBuffer, { outer: rows, n: width, inner: 1 }),
      expected,
    }
  },
  "reduce to many": () => {
    const x = whole(2 * size)
    return {
      label: `max of [1, 2, ${size}]`,
      inputs: [{ data: x }],
      run: ({ kernels }, [a]) => kernels.reduce("max", a as DeviceBuffer, { outer: 1, n: 2, inner: size }),
      expected: filled(size, (i) => Math.max(x[i] as number, x[size + i] as number)),
    }
  },
  matmul: () => {
    const [batch, m, n, k] = [65_541, 2, 3, 2]
    const [a, b] = [whole(batch * m * k), whole(batch * n * k)]
    const term = (i: number, p: number): number => {
      const [c, row, column] = [Math.floor(i / (m * n)), Math.floor(i / n) % m, i % n]
      return (a[(c * m + row) * k + p] as number) * (b[(c * n + column) * k + p] as number)
    }
    return {
      label: `matmul of ${batch} [${m}, ${k}] · [${n}, ${k}]ᵀ`,
      inputs: [{ data: a }, { data: b }],
      run: ({ kernels }, buffers) =>
        kernels.matmul(...(buffers as Buffers), { batch, m, n, k, transA: false, transB: true }),
      expected: filled(batch * m * n, (i) => term(i, 0) + term(i, 1)),
    }
  },
  gather: () => {
    const [table, ids] = [whole(1019 * width), hostArray("i32", rows)]
    for (let i = 0; i < rows; i++) ids[i] = (i * 7919) % 1019
    return {
      label: `gather ${rows} of [1019, ${width}]`,
      inputs: [{ data: table }, { data: ids, dtype: "i32" }],
      run: ({ kernels }, buffers) => kernels.gather(...(buffers as Buffers), { rows: 1019, width, n: rows }),
      expected: filled(size, (i) => table[(ids[Math.floor(i / width)] as number) * width + (i % width)] as number),
    }
  },
  scatterAdd: () => {
    const n = 97
    const [x, ids] = [whole(n * width), hostArray("i32", n)]
    const expected = new Float32Array(size)
    for (let i = 0; i < n; i++) {
      ids[i] = rows - 1 - ((i * 1511) % 60_000)
      for (let j = 0; j < width; j++) expected[(ids[i] as number) * width + j] = x[i * width + j] as number
    }
    return {
      label: `scatterAdd ${n} into [${rows}, ${width}]`,
      inputs: [{ data: x }, { data: ids, dtype: "i32" }],
      run: ({ kernels }, buffers) => kernels.scatterAdd(...(buffers as Buffers), { rows, width, n }),
      expected,
    }
  },
  permute: () => {
    const x = whole(size, "i32")
    return {
      label: `permute [${rows}, ${width}] to [1, 0]`,
      inputs: [{ data: x, dtype: "i32" }],
      run: ({ kernels }, [a]) => kernels.permute(a as DeviceBuffer, [rows, width], [1, 0]),
      expected: filled(size, (i) => x[(i % rows) * width + Math.floor(i / rows)] as number),
      dtype: "i32",
    }
  },
  slice: () => {
    const x = whole(rows * (width + 2))
    return {
      label: `slice of [${rows}, ${width + 2}]`,
      inputs: [{ data: x }],
      run: ({ kernels }, [a]) =>
        kernels.slice(a as DeviceBuffer, { outer: rows, n: width + 2, inner: 1, start: 1, length: width }),
      expected: filled(size, (i) => x[Math.floor(i / width) * (width + 2) + 1 + (i % width)] as number),
    }
  },
  concat: () => {
    const [x, y] = [whole(rows * 60), filled(rows, (i) => i)]
    return {
      label: `concat of [${rows}, (60, 1)]`,
      inputs: [{ data: x }, { data: y }],
      run: ({ kernels }, buffers) => kernels.concat(buffers, { outer: rows, ns: [60, 1], inner: 1 }),
      expected: filled(size, (i) => {
        const [row, column] = [Math.floor(i / width), i % width]
        return (column === 60 ? y[row] : x[row * 60 + column]) as number
      }),
    }
  },
  randomBits: () => ({
    label: `randomBits of ${size}`,
    inputs: [],
    run: ({ kernels }) => kernels.randomBits([3, 1], size),
    expected: randomWords([3, 1], size),
    dtype: "u32",
    tolerance: "random",
  }),
}

const manyRows: readonly RowSizes[] = [[70_001, 3]]
const fused: Readonly<Record<string, () => readonly KernelCase[]>> = {
  ...Object.fromEntries(Object.entries(rowCases).map(([name, make]) => [name, () => make(manyRows)])),
  ...manyHeads,
}

export function largeChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  for (const [name, make] of Object.entries(cases)) {
    const least = name === "matmul" ? "2 MB" : "35 MB"
    it(`kernel ${name} over more than 65 535 workgroups, where a buffer may hold ${least}`, async () => {
      const backend = await backendOf()
      const test = make()
      if (fits(backend, test)) await checkKernel(backend, test)
    })
  }
  for (const [name, make] of Object.entries(fused)) {
    it(`fused ${name} over more than 65 535 rows, where there is one and a buffer may hold 2 MB`, async () => {
      const backend = await backendOf()
      if (!backend.kernels[name as RowKernel]) return
      for (const test of make()) if (fits(backend, test)) await checkKernel(backend, test)
    })
  }
}

function fits({ supports }: Backend, { inputs, expected, dtype = "f32" }: KernelCase): boolean {
  const sizes = [expected.length * bytesPerElement[dtype], ...inputs.map((x) => x.data.byteLength)]
  return Math.max(...sizes) <= supports.maxBufferBytes
}
