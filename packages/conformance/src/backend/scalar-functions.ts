/** Each function of core's table of elementwise arithmetic over sample points, as one map. */
import type { Backend, DeviceBuffer, Expr, ScalarFunction } from "@peftjs/core"
import { call, constant, input, randomWords, scalarFunctions, uniform } from "@peftjs/core"
import type { Runner } from "../runner.ts"
import { checkKernel } from "./kernel-check.ts"
import type { ToleranceOp } from "./tolerances.ts"

const points = [-9.5, -3, -1, -0.5, -1e-3, 0, 1e-3, 0.25, 0.5, 1, 1.5, 2, 7, 9.75].map(Math.fround)
const exact: readonly ScalarFunction[] = ["neg", "abs", "floor", "max", "min", "lt", "le", "eq", "select"]

export function scalarFunctionChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  for (const [name, row] of Object.entries(scalarFunctions)) {
    const op = name as ScalarFunction
    it(`elementwise ${op}`, async () => {
      const finite = combinations(row.arity).filter((args) => Number.isFinite(row.value(...args)))
      const args = Array.from({ length: row.arity }, (_, i) => input(i))
      const columns = args.map((_, i) => Float32Array.from(finite, (values) => values[i] as number))
      const tolerance = exact.includes(op) ? "exact" : "elementwise"
      await checkMap(
        await backendOf(),
        op,
        call(op, ...args),
        columns,
        finite.map((v) => row.value(...v)),
        tolerance,
      )
    })
  }
  it("elementwise: infinities, a branch not taken, uniform numbers", async () => {
    const backend = await backendOf()
    const low = constant(Number.NEGATIVE_INFINITY)
    const x = Float32Array.from([-2, 0, 3])
    await checkMap(
      backend,
      "exp(-Infinity) + max(-Infinity, x)",
      call("add", call("exp", call("min", input(0), low)), call("max", low, input(0))),
      [x],
      [-2, 0, 3],
    )
    const guarded = call("select", call("lt", constant(0), input(0)), call("log", input(0)), constant(-1))
    await checkMap(backend, "select(0 < x, log(x), -1)", guarded, [x], [-1, -1, Math.log(3)], "elementwise")
    const words = randomWords([3, 4], 65)
    await checkKernel(backend, {
      label: "uniform",
      inputs: [{ data: words, dtype: "u32" }],
      run: ({ kernels }, [bits]) =>
        kernels.map(uniform(0), [{ buffer: bits as DeviceBuffer, shape: [65] }], [], [65], "f32"),
      expected: Float64Array.from(words, (word) => (word >>> 8) / 2 ** 24),
      tolerance: "random",
    })
  })
}

function combinations(arity: number): number[][] {
  if (arity === 0) return [[]]
  return combinations(arity - 1).flatMap((rest) => points.map((p) => [...rest, p]))
}

async function checkMap(
  backend: Backend,
  label: string,
  expr: Expr,
  columns: readonly Float32Array[],
  expected: readonly number[],
  tolerance: ToleranceOp = "exact",
): Promise<void> {
  const shape = [expected.length]
  await checkKernel(backend, {
    label,
    inputs: columns.map((data) => ({ data })),
    run: ({ kernels }, buffers) =>
      kernels.map(
        expr,
        buffers.map((buffer) => ({ buffer, shape })),
        [],
        shape,
        "f32",
      ),
    expected,
    tolerance,
  })
}
