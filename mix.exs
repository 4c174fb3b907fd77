defmodule Mix.Tasks.Compile.EmbeddedEpmdNative do
  @moduledoc false
  # Builds the NIF library with cargo. It lives here since a task in lib/ would not exist yet when it has to run.
  #
  # EMBEDDED_EPMD_NATIVE   a ready library to take instead; cargo is not run then
  # CARGO_BUILD_TARGET     a target triple for cross-compilation, as cargo itself reads it

  use Mix.Task.Compiler

  @library "epmd_nif"

  @impl Mix.Task.Compiler
  def run(_args) do
    with {:ok, built} <- built() do
      install(built, installed())
    end
  end

  @impl Mix.Task.Compiler
  def clean, do: _ = File.rm(installed())

  defp built do
    case System.get_env("EMBEDDED_EPMD_NATIVE", "") do
      "" -> cargo()
      ready -> if File.regular?(ready), do: {:ok, ready}, else: error("EMBEDDED_EPMD_NATIVE names no file: #{ready}")
    end
  end

  defp cargo do
    target_dir = Path.join(Mix.Project.build_path(), "cargo_target")
    # An empty CARGO_BUILD_TARGET is an error to cargo and means nothing to us.
    triple = System.get_env("CARGO_BUILD_TARGET", "")
    target = if triple == "", do: [], else: ["--target", triple]
    args = ["build", "--release", "--locked", "-p", @library, "--target-dir", target_dir] ++ target

    if System.find_executable("cargo") do
      options = [
        cd: File.cwd!(),
        env: [{"CARGO_BUILD_TARGET", nil}],
        into: IO.stream(),
        stderr_to_stdout: true
      ]

      case System.cmd("cargo", args, options) do
        {_, 0} -> {:ok, Path.join([target_dir, triple, "release", file_name(triple)])}
        {_, status} -> error("cargo ended with status #{status}; its messages stand above")
      end
    else
      error(
        "embedded_epmd needs Rust to compile its NIF, and cargo was not found: install Rust 1.91 or newer " <>
          "from https://rustup.rs, or name a ready library in EMBEDDED_EPMD_NATIVE"
      )
    end
  end

  defp file_name(triple) do
    cond do
      triple =~ "darwin" or triple =~ "apple" -> "lib#{@library}.dylib"
      triple == "" and match?({:unix, :darwin}, :os.type()) -> "lib#{@library}.dylib"
      true -> "lib#{@library}.so"
    end
  end

  # The VM looks for .so on every Unix. A running VM may have the old file mapped: overwriting it would end that VM,
  # deleting it does not.
  defp install(built, installed) do
    if File.read(built) == File.read(installed) do
      {:noop, []}
    else
      File.mkdir_p!(Path.dirname(installed))
      _ = File.rm(installed)
      File.cp!(built, installed)
      {:ok, []}
    end
  end

  defp installed, do: Path.join([Mix.Project.app_path(), "priv", "native", "#{@library}.so"])

  defp error(message) do
    Mix.shell().error(message)
    {:error, []}
  end
end

defmodule EmbeddedEpmd.MixProject do
  use Mix.Project

  def project do
    [
      app: :embedded_epmd,
      version: "0.1.0",
      elixir: "~> 1.14",
      compilers: [:embedded_epmd_native] ++ Mix.compilers(),
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      description: "The Erlang port mapper (EPMD) inside the VM: no daemon, nothing to lose with a service",
      package: package(),
      deps: []
    ]
  end

  # No modules of our own run as an application: the release's own tree supervises EmbeddedEpmd.
  def application do
    # The tests make certificates.
    [extra_applications: [:logger] ++ if(Mix.env() == :test, do: [:public_key], else: [])]
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      files: ~w(lib mix.exs Cargo.toml Cargo.lock native/*/Cargo.toml native/*/build.rs native/*/src
                README.md CHANGELOG.md LICENSE guides)
    ]
  end
end
