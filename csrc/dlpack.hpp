// As much of DLPack 1.3 as is needed to see where a tensor lies: a binary interface, so names and order are its own.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace rmsprop_fast::dlpack {

struct Version {
  std::uint32_t major, minor;
};
constexpr std::uint32_t major_version = 1;

struct Device {
  std::int32_t type, id;
};
constexpr std::int32_t cpu = 1;

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
constexpr std::uint8_t code_int = 0, code_uint = 1, code_float = 2, code_bfloat = 4;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

// What the capsule `__dlpack_c_exchange_api__` of a tensor type holds.
constexpr const char* capsule_name = "dlpack_exchange_api";
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void (*allocate)();
  void (*managed_from_object)();
  void (*object_from_managed)();
  // Describes a Python tensor that stays its own. 0, or -1 with a Python exception.
  int (*tensor_from_object)(void* object, Tensor* tensor);
  void (*current_work_stream)();
};

}  // namespace rmsprop_fast::dlpack
