#pragma once

#include <dlfcn.h>

namespace drover::inline v1::detail {

/// Keeps the shared object that holds this code loaded for the rest of the program. What drover leaves behind (its
/// background thread, the services in the host's contexts) runs code of that object, so dlclose() must not unmap it.
inline void pin_this_object() noexcept {
  static const bool pinned = [] {
    Dl_info info{};
    if (::dladdr(reinterpret_cast<void*>(&pin_this_object), &info) == 0 || info.dli_fname == nullptr) return false;
    // NOLOAD: it is loaded already; the flags of a loaded object can still be promoted to NODELETE, see dlopen(3).
    return ::dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
  }();
  (void)pinned;
}

}  // namespace drover::inline v1::detail
