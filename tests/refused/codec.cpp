// What can't be encoded or decoded fails to compile, with a sentence that says so. REFUSED is set by the test.
#include <thread>
#include <vector>

#include <drover/wire/codec.hpp>

struct Unknown {
  int value;
};
struct Base {
  int x = 0;
};
auto drover_fields(Base& b) { return std::tie(b.x); }
struct Derived : Base {
  int y = 0;
};
struct NoDefault {
  explicit NoDefault(int v) : value(v) {}
  int value;
};
auto drover_fields(NoDefault& n) { return std::tie(n.value); }

struct Copied {
  int value = 0;
};
auto drover_fields(Copied& c) { return std::tuple(c.value); }

int main() {
  drover::detail::ByteBuffer bytes;
  drover::Encoder out(bytes);
  drover::Decoder in(bytes.view());
#if REFUSED == 0
  out.put(Base{});  // the frame around the cases compiles
  in.get<Base>();
#elif REFUSED == 1
  out.put(Unknown{1});
#elif REFUSED == 2
  out.put(std::vector<std::optional<Unknown>>());
#elif REFUSED == 3
  out.put(&bytes);
#elif REFUSED == 4
  out.put(Derived{});
#elif REFUSED == 5
  in.get<const char*>();
#elif REFUSED == 6
  in.get<NoDefault>();
#elif REFUSED == 7
  in.get<std::thread>();
#elif REFUSED == 8
  in.get<const std::string&>();
#elif REFUSED == 9
  out.put(std::chrono::time_point<std::chrono::file_clock>());
#elif REFUSED == 10
  out.put(L"wide");
#elif REFUSED == 11
  in.get<Copied>();
#endif
}
