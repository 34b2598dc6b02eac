// What can't be encoded or decoded fails to compile, with a sentence that says so. REFUSED is set by the test.
#include <array>
#include <atomic>
#include <locale>
#include <memory>
#include <span>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#if REFUSED == 26 || REFUSED == 44 || REFUSED == 46 || REFUSED == 47 || REFUSED == 50 || REFUSED == 51
#include <asio/use_awaitable.hpp>

#include <drover/pool/local_worker.hpp>
#elif REFUSED == 43
#include <drover/wire/shared_blocks.hpp>
#elif REFUSED == 40 || REFUSED == 41 || REFUSED == 45 || REFUSED == 49
#include <drover/pool/worker_pool.hpp>
#elif REFUSED == 48
#include <drover/worker/source.hpp>
#endif
#include <drover/wire/codec.hpp>

class Unknown {
 public:
  explicit Unknown(int v) : value(v) {}

 private:
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

struct ReadOnly {
  int value = 0;
  std::string text;
};
auto drover_fields(const ReadOnly& r) { return std::tie(r.value, r.text); }

struct Wide {
  wchar_t text[4] = {};
};
auto drover_fields(Wide& w) { return std::tie(w.text); }

struct Fixed {
  Fixed() = default;
  Fixed(const Fixed&) = delete;
  int value = 0;
};
auto drover_fields(Fixed& f) { return std::tie(f.value); }

// Aggregates, which need no drover_fields().
struct Small {
  int value = 0;
};
struct Inherits : Small {
  int more = 0;
};
template <class T>
struct Boxed {
  T value{};
};
template <class T>
struct drover::Codec<Boxed<T>> {
  static void encode(Encoder& out, const Boxed<T>& box) { out.put(box.value); }
  static Boxed<T> decode(Decoder& in) { return {in.get<T>()}; }
};
struct HoldsView {
  int number = 0;
  std::string_view text{};
};
struct HoldsThread {
  Small small;
  std::vector<Small> many;
  std::thread thread;
};
struct HoldsTwo {
  HoldsThread inner;
  int* pointer = nullptr;
};
struct HoldsContainer {
  int number = 0;
  std::vector<std::thread> threads;
};
struct HoldsConst {
  int number = 0;
  const int constant = 0;
};
struct NeedsArgument {
  int number;
  NoDefault member;
};
struct HidesDefault {
  int number = 0;
  NoDefault member = NoDefault(1);
};
struct Large {
  int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y, z, aa, bb, cc, dd, ee, ff, gg;
};
struct HoldsImmovable {
  std::atomic<int> number;
};
struct BitsAndArray {
  unsigned bits : 3;
  int array[2];
};

int main() {
  drover::detail::ByteBuffer bytes;
  drover::Encoder out(bytes);
  drover::Decoder in(bytes.view());
#if REFUSED == 0
  out.put(Base{});  // the frame around the cases compiles
  in.get<Base>();
  out.put(HoldsConst());
  in.get<Small>();
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
#elif REFUSED == 12
  out.put(std::weak_ptr<Base>());
#elif REFUSED == 13
  in.get<std::shared_ptr<int[]>>();
#elif REFUSED == 14
  out.put(std::locale());
#elif REFUSED == 15
  in.get<std::error_condition>();
#elif REFUSED == 16
  out.put(&Small::value);
#elif REFUSED == 17
  in.get<ReadOnly>();
#elif REFUSED == 18
  in.get<std::vector<ReadOnly>>();
#elif REFUSED == 19
  in.get<std::span<int>>();
#elif REFUSED == 20
  in.get<Wide>();
#elif REFUSED == 21
  in.get<Derived>();
#elif REFUSED == 22
  in.get<Fixed>();
#elif REFUSED == 23
  out.put(std::thread::id());
#elif REFUSED == 24
  in.get<std::weak_ptr<Base>>();
#elif REFUSED == 25
  out.put(nullptr);
#elif REFUSED == 27
  out.put(HoldsThread());
#elif REFUSED == 28
  in.get<HoldsThread>();
#elif REFUSED == 29
  out.put(std::vector<HoldsTwo>());
#elif REFUSED == 30
  in.get<HoldsConst>();
#elif REFUSED == 31
  out.put(Inherits());
#elif REFUSED == 32
  in.get<Inherits>();
#elif REFUSED == 33
  out.put(NeedsArgument{1, NoDefault(1)});
#elif REFUSED == 34
  in.get<HidesDefault>();
#elif REFUSED == 35
  out.put(Large());
#elif REFUSED == 36
  in.get<HoldsImmovable>();
#elif REFUSED == 37
  in.get<BitsAndArray>();
#elif REFUSED == 38
  out.put(HoldsContainer());
#elif REFUSED == 39
  out.put(std::unique_ptr<int, void (*)(int*)>(nullptr, nullptr));
#elif REFUSED == 26
  (void)drover::LocalWorker().call<int>("name", drover::CallOptions{}, 1);
#elif REFUSED == 40
  (void)drover::WorkerPool().broadcast<int>("name", drover::CallOptions{}, 1);
#elif REFUSED == 41
  (void)drover::WorkerPool().broadcast<std::string_view>("name", 1);
#elif REFUSED == 42
  (void)drover::Shared<std::vector<int>>();
#elif REFUSED == 43
  (void)drover::SharedBlocks().draft<std::vector<int>>(1);
#elif REFUSED == 44
  (void)drover::LocalWorker().stream<drover::Shared<std::string>, int>("name");
#elif REFUSED == 45
  (void)drover::WorkerPool().map<std::string_view>({}, "name", std::vector<int>());
#elif REFUSED == 46
  (void)drover::LocalWorker().call<HoldsView>("name");
#elif REFUSED == 47
  (void)drover::LocalWorker().stream<void, std::array<HoldsView, 2>>("name");
#elif REFUSED == 48
  (void)sizeof(drover::Source<HoldsView>);
#elif REFUSED == 50
  (void)drover::LocalWorker().call<Boxed<std::string_view>>("name");
#elif REFUSED == 51
  int numbers[3] = {};
  (void)drover::LocalWorker().async_call<int>("name", numbers, asio::use_awaitable);
#elif REFUSED == 49
  (void)drover::WorkerPool().map<NoDefault>({}, "name", std::vector<int>());
#endif
}
