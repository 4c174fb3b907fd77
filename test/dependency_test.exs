defmodule EmbeddedEpmd.DependencyTest do
  use ExUnit.Case, async: true

  @moduletag timeout: 600_000

  @repository Path.expand("..", __DIR__)

  test "mix compile is all it takes, also under deps/ in somebody else's Cargo workspace" do
    project = Path.join(System.tmp_dir!(), "embedded_epmd_user_#{System.pid()}")
    on_exit(fn -> File.rm_rf!(project) end)
    dependency = Path.join(project, "deps/embedded_epmd")
    File.mkdir_p!(dependency)

    for path <- ~w(lib mix.exs Cargo.toml Cargo.lock native) do
      File.cp_r!(Path.join(@repository, path), Path.join(dependency, path))
    end

    # What was compiled for these tests is still good for the crates of others, which saves a minute.
    compiled = Path.join(Mix.Project.build_path(), "cargo_target")
    File.mkdir_p!(Path.join(project, "_build/dev"))
    {_, 0} = System.cmd("cp", ["-a", compiled, Path.join(project, "_build/dev/cargo_target")])

    File.write!(Path.join(project, "Cargo.toml"), """
    [workspace]
    members = ["theirs"]
    """)

    File.mkdir_p!(Path.join(project, "theirs/src"))
    File.write!(Path.join(project, "theirs/Cargo.toml"), "[package]\nname = \"theirs\"\nversion = \"1.0.0\"\n")
    File.write!(Path.join(project, "theirs/src/lib.rs"), "")

    File.write!(Path.join(project, "mix.exs"), """
    defmodule User.MixProject do
      use Mix.Project
      def project, do: [app: :user, version: "1.0.0", deps: [{:embedded_epmd, path: "deps/embedded_epmd"}]]
    end
    """)

    environment = [{"MIX_ENV", "dev"}, {"EMBEDDED_EPMD_NATIVE", nil}, {"CARGO_TARGET_DIR", nil}]
    {output, status} = System.cmd("mix", ["compile"], cd: project, env: environment, stderr_to_stdout: true)
    assert status == 0, output
    assert File.regular?(Path.join(project, "_build/dev/lib/embedded_epmd/priv/native/epmd_nif.so"))

    {output, 0} = System.cmd("mix", ["compile"], cd: project, env: environment, stderr_to_stdout: true)
    refute output =~ "Compiling", "a second mix compile has nothing to do"
  end

  test "without cargo, one sentence says what to do" do
    # A path of its own: Debian keeps cargo beside erl.
    path = Path.join(System.tmp_dir!(), "embedded_epmd_path_#{System.pid()}")
    on_exit(fn -> File.rm_rf!(path) end)
    File.mkdir_p!(path)

    for tool <- ~w(erl sh sed dirname basename readlink) do
      File.ln_s!(System.find_executable(tool), Path.join(path, tool))
    end

    build = Path.join(System.tmp_dir!(), "embedded_epmd_no_cargo_#{System.pid()}")
    on_exit(fn -> File.rm_rf!(build) end)
    environment = [{"PATH", path}, {"MIX_BUILD_PATH", build}, {"EMBEDDED_EPMD_NATIVE", nil}]
    mix = System.find_executable("mix")

    {output, status} =
      System.cmd(System.find_executable("elixir"), [mix, "compile"],
        cd: @repository,
        env: environment,
        stderr_to_stdout: true
      )

    assert status != 0
    assert output =~ "embedded_epmd needs Rust to compile its NIF, and cargo was not found: install Rust"
  end
end
