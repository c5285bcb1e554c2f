#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "assignment/certificate.h"
#include "assignment/direct.h"
#include "assignment/operation.h"
#include "common/bindings.h"
#include "common/pool.h"
#include "common/signals.h"

namespace py = pybind11;

namespace fastgen {
namespace {

using namespace assignment;

struct Interrupted {};

// Stops a solver in all of its threads.
class Ask : public Control {
 public:
  void poll(int thread) override {
    if (signals_.stop(thread)) throw Interrupted{};
  }

 private:
  Signals signals_;
};

Problem problem_at(bool float64, int64_t rows, int64_t columns, uintptr_t matrix,
                   uintptr_t row_points, uintptr_t column_points, int64_t dims, bool root) {
  return {matrix ? Form::matrix : Form::points,
          float64,
          rows,
          columns,
          pointer<void>(matrix),
          pointer<void>(row_points),
          pointer<void>(column_points),
          dims,
          root,
          nullptr};
}

// Works without the interpreter's lock; an interrupt becomes Python's error.
template <class Work>
void unlocked(const Work& work) {
  try {
    const py::gil_scoped_release release;
    work();
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

// One problem with all threads, or many with one thread each; arrays follow one another.
void solve(int64_t problems, Problem first, const Options& options, const Solution& solution,
           const double* left_out, double* costs, double* gaps, int threads) {
  Ask signals;
  const int64_t number = first.float64 ? 8 : 4;
  const auto one = [&](int64_t k, Team& team, int thread) {
    Problem problem = first;
    const auto offset = [&](const void* base, int64_t elements) {
      return static_cast<const char*>(base) + k * elements * number;
    };
    if (first.matrix) problem.matrix = offset(first.matrix, first.rows * first.columns);
    if (first.row_points) {
      problem.row_points = offset(first.row_points, first.rows * first.dims);
      problem.column_points = offset(first.column_points, first.columns * first.dims);
    }
    Options own = options;
    if (own.warm_prices) own.warm_prices += k * first.columns;
    if (left_out) own.left_out = left_out[k];
    Solution found{solution.match + k * first.rows, solution.rows + k * first.rows,
                   solution.columns + k * first.columns, 0, 0};
    assign(problem, own, team, signals, thread, &found);
    costs[k] = found.cost;
    gaps[k] = found.gap;
  };
  // More than there are problems, or processors, would wait for each other; so many for tests. (To
  // ask how many there are takes tens of microseconds.)
  constexpr int FEW = 64;
  if (problems > 1) threads = static_cast<int>(std::min<int64_t>(threads, problems));
  if (threads > FEW)
    threads = std::min(threads, std::max<int>(FEW, std::thread::hardware_concurrency()));
  Team team(threads);
  if (problems == 1) return one(0, team, 0);
  team.each(problems, 1, [&](int64_t begin, int64_t, int thread) {
    Team alone(1);
    signals.poll(thread);
    one(begin, alone, thread);
  });
}

void assign_many(int64_t problems, bool float64, int64_t rows, int64_t columns, uintptr_t matrix,
                 uintptr_t row_points, uintptr_t column_points, int64_t dims, bool root,
                 double epsilon, double tolerance, uintptr_t left_out, uintptr_t warm_prices,
                 uintptr_t match, uintptr_t row_duals, uintptr_t column_duals, uintptr_t costs,
                 uintptr_t gaps, int threads) {
  const Problem problem =
      problem_at(float64, rows, columns, matrix, row_points, column_points, dims, root);
  const Options options{epsilon, tolerance, 0, pointer<const double>(warm_prices)};
  const Solution solution{pointer<int64_t>(match), pointer<double>(row_duals),
                          pointer<double>(column_duals), 0, 0};
  unlocked([&] {
    solve(problems, problem, options, solution, pointer<const double>(left_out),
          pointer<double>(costs), pointer<double>(gaps), threads);
  });
}

// Of problems that take less time than a signal may wait.
class Never : public Control {
 public:
  void poll(int) override {}
};

// Up to so many costs a call does without the preparations of larger problems.
constexpr int64_t GIVEN_UP_TO = int64_t{1} << 20;

// An instance of a Python class of these attributes, as its own __init__ would make it: that sets
// each by a call.
py::object instance_of(PyObject* type, const std::initializer_list<py::handle>& values) {
  static PyObject* const NAMES[] = {
      PyUnicode_InternFromString("permutation"), PyUnicode_InternFromString("cost"),
      PyUnicode_InternFromString("gap"), PyUnicode_InternFromString("duals")};
  const py::object made = owned(PyType_GenericAlloc(reinterpret_cast<PyTypeObject*>(type), 0));
  const py::object attributes = owned(PyDict_New());
  PyObject* const* name = NAMES;
  for (const py::handle value : values)
    if (PyDict_SetItem(attributes.ptr(), *name++, value.ptr()) != 0) throw py::error_already_set();
  if (PyObject_GenericSetDict(made.ptr(), attributes.ptr(), nullptr) != 0)
    throw py::error_already_set();
  return made;
}

// assign_given(matrix, type) -> an instance of the type, which is couplings.Assignment, or None:
// one problem without options on this thread. The matrix is a tensor [rows, columns], no more rows
// than columns. None for one that is not contiguous float32 or float64 on the CPU, is larger, or
// has no pairing.
PyObject* assign_given(PyObject*, PyObject* const* arguments, Py_ssize_t count) try {
  constexpr uint8_t FLOAT = 2;  // kDLFloat
  TensorView costs;
  if (count != 2 || !PyType_Check(arguments[1]) || !look(arguments[0], &costs) ||
      costs.device_type != ON_CPU || costs.dimensions != 2 || costs.kind != FLOAT ||
      costs.lanes != 1 || (costs.bits != 32 && costs.bits != 64) || !is_contiguous(costs))
    Py_RETURN_NONE;
  const int64_t rows = costs.shape[0], columns = costs.shape[1];
  if (rows == 0 || rows > columns || rows > GIVEN_UP_TO / columns) Py_RETURN_NONE;
  const Problem problem{Form::matrix, costs.bits == 64, rows, columns, address(costs),
                        nullptr,      nullptr,          0,    false,   nullptr};
  const Options options{0, problem.float64 ? 1e-12 : 1e-6, 0, nullptr};
  int64_t* numbers;
  const py::object match = whole_numbers(rows, &numbers);
  if (match.is_none()) Py_RETURN_NONE;
  std::vector<double> duals(rows + columns);
  Solution found{numbers, duals.data(), duals.data() + rows, 0, 0};
  if (is_small(problem)) {
    Never never;
    Team alone(1);
    assign(problem, options, alone, never, 0, &found);
  } else {
    Ask signals;
    // To release the lock takes as long as a few hundred costs.
    without_gil(8 * rows * columns, [&] {
      Team alone(1);
      assign(problem, options, alone, signals, 0, &found);
    });
  }
  return instance_of(arguments[1],
                     {match, py::float_(found.cost), py::float_(found.gap), py::none()})
      .release()
      .ptr();
} catch (const std::domain_error&) {  // some cost is not finite
  Py_RETURN_NONE;
} catch (const Interrupted&) {
  return nullptr;
} catch (py::error_already_set& error) {
  error.restore();
  return nullptr;
}

// Cells to [rows + columns]; how many, their cost and gap.
std::tuple<int64_t, double, double> transport(bool float64, int64_t rows, int64_t columns,
                                              uintptr_t matrix, uintptr_t row_points,
                                              uintptr_t column_points, int64_t dims, bool root,
                                              uintptr_t supply, uintptr_t demand,
                                              uintptr_t cell_rows, uintptr_t cell_columns,
                                              uintptr_t amounts, uintptr_t row_duals,
                                              uintptr_t column_duals) {
  const Problem problem =
      problem_at(float64, rows, columns, matrix, row_points, column_points, dims, root);
  Shipment found;
  double gap;
  unlocked([&] {
    Ask signals;
    found = ship_problem(problem, pointer<const int64_t>(supply), pointer<const int64_t>(demand),
                         signals, &gap);
  });
  for (size_t k = 0; k < found.cells.size(); ++k) {
    pointer<int64_t>(cell_rows)[k] = found.cells[k].row;
    pointer<int64_t>(cell_columns)[k] = found.cells[k].column;
    pointer<int64_t>(amounts)[k] = found.cells[k].amount;
  }
  std::copy(found.rows.begin(), found.rows.end(), pointer<double>(row_duals));
  std::copy(found.columns.begin(), found.columns.end(), pointer<double>(column_duals));
  return {static_cast<int64_t>(found.cells.size()), found.cost, gap};
}

// sum_i |a_i - b_match(i)|^2 in float64, of pairs with match(i) >= 0, and its size
std::pair<double, double> paired_cost(uintptr_t a, uintptr_t b, uintptr_t match, int64_t count,
                                      int64_t dims, bool float64) {
  const py::gil_scoped_release release;
  const int64_t bytes = dims * (float64 ? 8 : 4);
  const int64_t* to = pointer<const int64_t>(match);
  double sum = 0;
  std::vector<double> pairs;
  for (int64_t i = 0; i < count; ++i) {
    if (to[i] < 0) continue;
    pairs.push_back(
        float64 ? kernels<Kernels>().squared_distance_double(
                      pointer<double>(a + i * bytes), pointer<double>(b + to[i] * bytes), dims)
                : kernels<Kernels>().squared_distance_float(
                      pointer<float>(a + i * bytes), pointer<float>(b + to[i] * bytes), dims));
    sum += pairs.back();
  }
  return {sum, size_of(pairs.data(), static_cast<int64_t>(pairs.size()))};
}

// |x_i|^2 of the points x [count, dims], and |mean of x|^2 over the mean of |x|^2 (NaN or infinite
// if some number is not finite, or its square is not).
template <class T>
double moments_of(const T* x, int64_t count, int64_t dims, T* squares) {
  std::vector<T> sums(dims);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    double square;
    if constexpr (sizeof(T) == 4)
      square = kernels<Kernels>().add_moments_float(x + i * dims, dims, sums.data());
    else
      square = kernels<Kernels>().add_moments_double(x + i * dims, dims, sums.data());
    squares[i] = static_cast<T>(square);
    total += square;
  }
  double of_mean = 0;
  for (const T sum : sums) of_mean += static_cast<double>(sum) * sum;
  return of_mean / count / total;
}

double moments(uintptr_t x, int64_t count, int64_t dims, bool float64, uintptr_t squares) {
  const py::gil_scoped_release release;
  return float64 ? moments_of(pointer<double>(x), count, dims, pointer<double>(squares))
                 : moments_of(pointer<float>(x), count, dims, pointer<float>(squares));
}

}  // namespace

void bind_assignment(py::module_& m) {
  m.def("assign", &assign_many, "Solves assignment problems; see csrc/assignment/operation.h.",
        py::arg("problems"), py::arg("float64"), py::arg("rows"), py::arg("columns"),
        py::arg("matrix"), py::arg("row_points"), py::arg("column_points"), py::arg("dims"),
        py::arg("root"), py::arg("epsilon"), py::arg("tolerance"), py::arg("left_out"),
        py::arg("warm_prices"), py::arg("match"), py::arg("row_duals"), py::arg("column_duals"),
        py::arg("costs"), py::arg("gaps"), py::arg("threads"));
  static PyMethodDef given = bare_method("assign_given", assign_given,
                                         "assign_given(matrix, Assignment) -> Assignment or None");
  m.attr("assign_given") = owned(PyCFunction_New(&given, nullptr));
  m.def("transport", &transport, "Solves a transport problem; see csrc/assignment/transport.h.",
        py::arg("float64"), py::arg("rows"), py::arg("columns"), py::arg("matrix"),
        py::arg("row_points"), py::arg("column_points"), py::arg("dims"), py::arg("root"),
        py::arg("supply"), py::arg("demand"), py::arg("cell_rows"), py::arg("cell_columns"),
        py::arg("amounts"), py::arg("row_duals"), py::arg("column_duals"));
  m.def("paired_cost", &paired_cost, py::arg("a"), py::arg("b"), py::arg("match"), py::arg("count"),
        py::arg("dims"), py::arg("float64"));
  m.def("moments", &moments, py::arg("x"), py::arg("count"), py::arg("dims"), py::arg("float64"),
        py::arg("squares"));
}

}  // namespace fastgen
