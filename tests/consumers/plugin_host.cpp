#include <dlfcn.h>
#include <iostream>

void host_uses_drover();

extern "C" {
using PluginRun = int();
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (int round = 0; round < 2; ++round) {
    host_uses_drover();
    void* const plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (plugin == nullptr) {
      std::cerr << dlerror() << '\n';
      return 1;
    }
    auto* const run = reinterpret_cast<PluginRun*>(dlsym(plugin, "plugin_run"));
    const int failed = run == nullptr ? -1 : run();
    if (failed != 0) {
      std::cerr << "the plug-in failed with " << failed << '\n';
      return 1;
    }
    if (dlclose(plugin) != 0) return 1;
    host_uses_drover();
  }
}
