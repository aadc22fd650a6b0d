/**
 * The functions of TensorFlow's C API that a runtime calls (tensorflow/c/c_api.h, tensorflow/c/eager/c_api.h), bound by koffi.
 * Pointers are BigInts, names given to ops are kept for good, as TensorFlow may keep their address. Must not know tensors, types or files.
 */
import type koffi from "koffi"

type Koffi = typeof koffi
type Library = ReturnType<Koffi["load"]>
export type Pointer = bigint

export interface Capi {
  readonly version: () => string
  /** Status: made once and used for every call. */
  readonly status: { readonly pointer: Pointer; readonly code: () => number; readonly message: () => string }
  readonly newContextOptions: () => Pointer
  readonly setConfig: (options: Pointer, proto: Uint8Array, length: number, status: Pointer) => void
  readonly deleteContextOptions: (options: Pointer) => void
  readonly newContext: (options: Pointer, status: Pointer) => Pointer
  readonly listDevices: (context: Pointer, status: Pointer) => Pointer
  readonly deviceCount: (list: Pointer) => number
  readonly deviceName: (list: Pointer, index: number, status: Pointer) => string
  readonly deviceType: (list: Pointer, index: number, status: Pointer) => string
  readonly deviceMemory: (list: Pointer, index: number, status: Pointer) => number | bigint
  readonly deleteDeviceList: (list: Pointer) => void
  readonly allocateTensor: (type: number, dims: BigInt64Array, rank: number, bytes: number) => Pointer | null
  readonly tensorData: (tensor: Pointer) => Pointer | null
  readonly tensorBytes: (tensor: Pointer) => number | bigint
  readonly deleteTensor: (tensor: Pointer) => void
  readonly newHandle: (tensor: Pointer, status: Pointer) => Pointer
  readonly copyToDevice: (handle: Pointer, context: Pointer, device: Pointer, status: Pointer) => Pointer
  readonly resolve: (handle: Pointer, status: Pointer) => Pointer
  readonly handleType: (handle: Pointer) => number
  readonly handleRank: (handle: Pointer, status: Pointer) => number
  readonly handleDim: (handle: Pointer, index: number, status: Pointer) => number | bigint
  readonly handleDevice: (handle: Pointer, status: Pointer) => string
  readonly deleteHandle: (handle: Pointer) => void
  readonly newOp: (context: Pointer, name: Pointer, status: Pointer) => Pointer
  readonly setDevice: (op: Pointer, device: Pointer, status: Pointer) => void
  readonly addInput: (op: Pointer, handle: Pointer, status: Pointer) => void
  readonly setType: (op: Pointer, name: Pointer, value: number) => void
  readonly setInt: (op: Pointer, name: Pointer, value: number) => void
  readonly setInts: (op: Pointer, name: Pointer, values: BigInt64Array, count: number) => void
  readonly setFloat: (op: Pointer, name: Pointer, value: number) => void
  readonly setBool: (op: Pointer, name: Pointer, value: number) => void
  readonly setString: (op: Pointer, name: Pointer, value: Uint8Array, length: number) => void
  readonly setShape: (op: Pointer, name: Pointer, dims: BigInt64Array, rank: number, status: Pointer) => void
  readonly execute: (op: Pointer, results: BigUint64Array, count: Int32Array, status: Pointer) => void
  readonly deleteOp: (op: Pointer) => void
  readonly toNative: (target: Pointer, source: Uint8Array, bytes: number) => void
  readonly toHost: (target: Uint8Array, source: Pointer, bytes: number) => void
  /** A C string that stays, the same for the same text. */
  readonly name: (text: string) => Pointer
}

/** Binds the functions of a loaded libtensorflow_cc. Throws koffi's error where one is missing. */
export function bindCapi(koffi: Koffi, library: Library): Capi {
  const bind = (result: string, name: string, ...parameters: string[]): ReturnType<Library["func"]> =>
    library.func(name, result, parameters)
  const ptr = "void *"
  const text = "const char *"
  const libc = koffi.load(null)
  const memcpy = libc.func("memcpy", ptr, [ptr, ptr, "size_t"])
  const code = bind("int", "TF_GetCode", ptr)
  const message = bind(text, "TF_Message", ptr)
  const pointer = bind(ptr, "TF_NewStatus")() as Pointer
  const names = new Map<string, Pointer>()
  return {
    version: bind(text, "TF_Version"),
    status: { pointer, code: () => code(pointer), message: () => message(pointer) },
    newContextOptions: bind(ptr, "TFE_NewContextOptions"),
    setConfig: bind("void", "TFE_ContextOptionsSetConfig", ptr, ptr, "size_t", ptr),
    deleteContextOptions: bind("void", "TFE_DeleteContextOptions", ptr),
    newContext: bind(ptr, "TFE_NewContext", ptr, ptr),
    listDevices: bind(ptr, "TFE_ContextListDevices", ptr, ptr),
    deviceCount: bind("int", "TF_DeviceListCount", ptr),
    deviceName: bind(text, "TF_DeviceListName", ptr, "int", ptr),
    deviceType: bind(text, "TF_DeviceListType", ptr, "int", ptr),
    deviceMemory: bind("int64_t", "TF_DeviceListMemoryBytes", ptr, "int", ptr),
    deleteDeviceList: bind("void", "TF_DeleteDeviceList", ptr),
    allocateTensor: bind(ptr, "TF_AllocateTensor", "int", ptr, "int", "size_t"),
    tensorData: bind(ptr, "TF_TensorData", ptr),
    tensorBytes: bind("size_t", "TF_TensorByteSize", ptr),
    deleteTensor: bind("void", "TF_DeleteTensor", ptr),
    newHandle: bind(ptr, "TFE_NewTensorHandle", ptr, ptr),
    copyToDevice: bind(ptr, "TFE_TensorHandleCopyToDevice", ptr, ptr, ptr, ptr),
    resolve: bind(ptr, "TFE_TensorHandleResolve", ptr, ptr),
    handleType: bind("int", "TFE_TensorHandleDataType", ptr),
    handleRank: bind("int", "TFE_TensorHandleNumDims", ptr, ptr),
    handleDim: bind("int64_t", "TFE_TensorHandleDim", ptr, "int", ptr),
    handleDevice: bind(text, "TFE_TensorHandleDeviceName", ptr, ptr),
    deleteHandle: bind("void", "TFE_DeleteTensorHandle", ptr),
    newOp: bind(ptr, "TFE_NewOp", ptr, ptr, ptr),
    setDevice: bind("void", "TFE_OpSetDevice", ptr, ptr, ptr),
    addInput: bind("void", "TFE_OpAddInput", ptr, ptr, ptr),
    setType: bind("void", "TFE_OpSetAttrType", ptr, ptr, "int"),
    setInt: bind("void", "TFE_OpSetAttrInt", ptr, ptr, "int64_t"),
    setInts: bind("void", "TFE_OpSetAttrIntList", ptr, ptr, ptr, "int"),
    setFloat: bind("void", "TFE_OpSetAttrFloat", ptr, ptr, "float"),
    setBool: bind("void", "TFE_OpSetAttrBool", ptr, ptr, "uchar"),
    setString: bind("void", "TFE_OpSetAttrString", ptr, ptr, ptr, "size_t"),
    setShape: bind("void", "TFE_OpSetAttrShape", ptr, ptr, ptr, "int", ptr),
    execute: bind("void", "TFE_Execute", ptr, ptr, ptr, ptr),
    deleteOp: bind("void", "TFE_DeleteOp", ptr),
    toNative: memcpy,
    toHost: memcpy,
    name(value) {
      let known = names.get(value)
      if (known === undefined) {
        const bytes = new TextEncoder().encode(`${value}\0`)
        known = koffi.address(koffi.alloc("uint8_t", bytes.length))
        memcpy(known, bytes, bytes.length)
        names.set(value, known)
      }
      return known
    },
  }
}
