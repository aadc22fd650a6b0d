/**
 * Who owns which buffer, and for how long: one engine per backend.
 * Every tensor made inside a scope dies with it unless it is returned or saved for a gradient. Scopes are synchronous, so at any
 * await no scope is open and programs that interleave on one backend cannot disturb each other.
 */
import type { Backend, DeviceBuffer } from "./backend.ts"
import type { DType, Shape, TypedArray } from "./dtype.ts"
import { hostArray, sizeOf } from "./dtype.ts"
import { invariant, PeftError } from "./errors.ts"
import { constant } from "./expr.ts"
import type { Sum } from "./sums.ts"
import { isTensor, materialize, Tensor } from "./tensor.ts"

/** A buffer with the number of tensors and gradient records that still need it, or the sum that it will hold. */
export interface Storage {
  buffer: DeviceBuffer | undefined
  sum?: Sum | undefined
  refs: number
}

/** One recorded operation: whom its output's gradient goes to, and how. */
export interface TapeNode {
  readonly output: Tensor
  readonly inputs: readonly Tensor[]
  readonly saved: readonly Tensor[]
  gradient(dy: Tensor): readonly (Tensor | undefined)[]
}

export interface Engine {
  readonly backend: Backend
  /** Tensors of the innermost open scope. */
  scope: Set<Tensor> | undefined
  /** Where operations are being recorded. */
  tape: TapeNode[] | undefined
  /** While a block runs unrecorded: collects the tensors made before it that it uses. */
  outside: { readonly since: number; readonly tensors: Set<Tensor> } | undefined
  /** Tensors made so far: each is numbered by the count before it. */
  made: number
  /** Storages that hold a sum; none outside scopes. */
  readonly waiting: Set<Storage>
  /** Buffers now alive: equal at step 10 and step 200. */
  liveBuffers: number
  readonly abandoned: FinalizationRegistry<Storage>
}

const engines = new WeakMap<Backend, Engine>()

/** The engine of a backend: the same one for as long as the backend lives. */
export function engineOf(backend: Backend): Engine {
  const known = engines.get(backend)
  if (known) return known
  const engine: Engine = {
    backend,
    scope: undefined,
    tape: undefined,
    outside: undefined,
    made: 0,
    waiting: new Set(),
    liveBuffers: 0,
    abandoned: new FinalizationRegistry((storage) => release(engine, storage)),
  }
  engines.set(backend, engine)
  return engine
}

/** A tensor over a buffer that a kernel has just made. */
export function wrap(engine: Engine, buffer: DeviceBuffer, shape: Shape): Tensor {
  invariant(buffer.length === sizeOf(shape), `a kernel returned ${buffer.length} elements for shape [${shape}]`)
  engine.liveBuffers++
  return own(new Tensor(engine, { buffer, refs: 0 }, shape, buffer.dtype))
}

/** Gives a tensor to the innermost scope; outside all scopes it lives until its holder lets go of it or it is collected. */
export function own(tensor: Tensor): Tensor {
  tensor.storage.refs++
  adopt(tensor)
  return tensor
}

function adopt(tensor: Tensor): void {
  const { engine } = tensor
  if (engine.scope) engine.scope.add(tensor)
  else engine.abandoned.register(tensor, tensor.storage, tensor)
}

/** Another handle on the same values, owned by the caller until `free`: outlives every scope. */
export function hold(given: Tensor): Tensor {
  const tensor = materialize(given)
  const copy = new Tensor(tensor.engine, tensor.storage, tensor.shape, tensor.dtype)
  tensor.storage.refs++
  return copy
}

/** Gives back a handle made by `hold`, or a tensor made outside all scopes. */
export function free(tensor: Tensor): void {
  tensor.engine.abandoned.unregister(tensor)
  release(tensor.engine, tensor.storage)
}

/** The buffer of a tensor, computed now where it is a sum that waits. Throws E_FREED when its scope has ended. */
export function bufferOf(tensor: Tensor): DeviceBuffer {
  const { engine, storage } = tensor
  if (storage.sum) compute(engine, storage, storage.sum)
  const { buffer } = storage
  if (!buffer) {
    throw new PeftError(
      "E_FREED",
      `[core] a tensor of shape [${tensor.shape}] was used after its scope; return it from the scope to keep it`,
    )
  }
  return buffer
}

export function retain(tensor: Tensor): void {
  tensor.storage.refs++
}

export function release(engine: Engine, storage: Storage): void {
  storage.refs--
  if (storage.refs > 0) return
  if (storage.sum) forget(engine, storage, storage.sum)
  if (!storage.buffer) return
  engine.backend.free(storage.buffer)
  engine.liveBuffers--
  storage.buffer = undefined
}

function compute(engine: Engine, storage: Storage, sum: Sum): void {
  const { products, addend, m, n } = sum
  const buffer = engine.backend.kernels.sumOfProducts?.(products, addend, { m, n })
  invariant(buffer?.length === m * n, `sumOfProducts returned ${buffer?.length} elements for [${m}, ${n}]`)
  storage.buffer = buffer
  engine.liveBuffers++
  forget(engine, storage, sum)
}

function forget(engine: Engine, storage: Storage, { operands }: Sum): void {
  storage.sum = undefined
  engine.waiting.delete(storage)
  for (const operand of operands) release(engine, operand)
}

/** What `scope` may return: tensors, or arrays, maps and records of them; other values pass through. */
export function scope<T>(engine: Engine, body: () => T): T {
  const outer = engine.scope
  const inner = new Set<Tensor>()
  engine.scope = inner
  let kept = new Set<Tensor>()
  let result: T
  try {
    result = body()
    kept = collect(result, kept)
  } finally {
    engine.scope = outer
    for (const tensor of inner) {
      if (kept.has(tensor)) adopt(tensor)
      else release(engine, tensor.storage)
    }
  }
  // Whoever has a tensor outside all scopes may change what it would be computed from.
  if (!outer) for (const storage of engine.waiting) if (storage.sum) compute(engine, storage, storage.sum)
  return result
}

function collect(value: unknown, found: Set<Tensor>): Set<Tensor> {
  if (isTensor(value)) {
    found.add(value)
    if (value.transposeOf) found.add(value.transposeOf)
  } else if (Array.isArray(value)) for (const v of value) collect(v, found)
  else if (value instanceof Map) for (const v of value.values()) collect(v, found)
  else if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    for (const v of Object.values(value)) collect(v, found)
  }
  return found
}

/** Runs `body` with nothing recorded. */
export function noGrad<T>(engine: Engine, body: () => T): T {
  const { tape } = engine
  engine.tape = undefined
  try {
    return body()
  } finally {
    engine.tape = tape
  }
}

/** Copies host values to the device. Throws E_SHAPE when `data` does not fill `shape`. */
export function tensor(
  backend: Backend,
  data: TypedArray | readonly number[],
  shape: Shape,
  dtype: DType = "f32",
): Tensor {
  if (data.length !== sizeOf(shape)) {
    throw new PeftError(
      "E_SHAPE",
      `[core] ${data.length} values do not fill shape [${shape}], which has ${sizeOf(shape)}`,
    )
  }
  const array = Array.isArray(data) ? hostArray(dtype, data.length) : (data as TypedArray)
  if (Array.isArray(data)) array.set(data)
  return wrap(engineOf(backend), backend.upload(array, dtype), shape)
}

/** A tensor of one value. */
export function full(backend: Backend, shape: Shape, value: number): Tensor {
  return wrap(engineOf(backend), backend.kernels.map(constant(value), [], [], shape, "f32"), shape)
}

/** Copies a tensor to the host; its buffer stays alive until that is done. */
export async function read(tensor: Tensor): Promise<TypedArray> {
  const buffer = bufferOf(tensor)
  retain(tensor)
  try {
    return await tensor.engine.backend.read(buffer)
  } finally {
    release(tensor.engine, tensor.storage)
  }
}

/**
 * Gives a held tensor, such as a parameter after an optimizer step, the values of another, which stays as it is; gradients and shape
 * stay. Whoever else still needs the old values keeps them.
 */
export function assign(target: Tensor, given: Tensor): void {
  const { engine } = target
  const source = materialize(given)
  invariant(target.size === source.size && target.dtype === source.dtype, "assign needs equal shapes and types")
  // A source that dies with the open scope leaves its buffer to the target; one that lives on is copied, so that they never share.
  const last = engine.scope?.has(source) && source.storage.refs === 1
  const taken = last ? hold(source) : scope(engine, () => hold(copy(source)))
  release(engine, target.storage)
  target.storage = taken.storage
}

function copy(source: Tensor): Tensor {
  const { engine } = source
  const flat = { outer: 1, n: source.size, inner: 1, start: 0, length: source.size }
  return wrap(engine, engine.backend.kernels.slice(bufferOf(source), flat), source.shape)
}
