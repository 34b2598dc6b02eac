#pragma once

#include <dlfcn.h>
#include <link.h>

namespace drover { inline namespace v1 { namespace detail {

/// Keeps the shared object that contains this code loaded until the process exits. drover's background thread and its
/// services in the program's contexts run code of that object, so dlclose() must not unmap it.
inline void keep_library_loaded() noexcept {
  static const bool pinned = [] {
    Dl_info info{};
    void* const here = reinterpret_cast<void*>(&keep_library_loaded);
#ifdef RTLD_DL_LINKMAP
    // The executable has an empty name here. It is never unloaded, and dlopen() would search for its file.
    link_map* object = nullptr;
    if (::dladdr1(here, &info, reinterpret_cast<void**>(&object), RTLD_DL_LINKMAP) != 0 && object != nullptr &&
        object->l_name[0] == '\0')
      return true;
#endif
    if (::dladdr(here, &info) == 0 || info.dli_fname == nullptr) return false;
    // NOLOAD: the object is already loaded. Its flags can still be promoted to NODELETE, see dlopen(3).
    return ::dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
  }();
  (void)pinned;
}

}}}  // namespace drover::v1::detail
