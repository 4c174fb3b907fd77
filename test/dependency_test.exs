defmodule EmbeddedEpmd.DependencyTest.Cargo do
  # What a real cargo compiles.
  use ExUnit.Case, async: true

  import Support.Project, except: [new: 0]
  import Support.Vm, only: [free_port: 0, stock_names: 1, unique: 1]

  alias EmbeddedEpmd.Build.Target
  alias Support.Project
  alias Support.Release

  @moduletag timeout: 600_000

  @installed "lib/embedded_epmd/priv/native/epmd_nif.so"

  setup do
    %{project: Project.new()}
  end

  test "mix compile is all it takes, also in somebody else's Cargo workspace, and once for all environments", context do
    %{project: project} = context

    # The crates of others need not be compiled again, which saves a minute.
    compiled = System.get_env("CARGO_TARGET_DIR") || Path.join(Path.dirname(Mix.Project.build_path()), "cargo_target")
    File.mkdir_p!(Path.join(project, "_build"))
    # bin/test may be compiling there: cargo has this file locked meanwhile.
    lock = Path.join(compiled, "release/.cargo-lock")
    {_, 0} = System.cmd("flock", [lock, "cp", "-a", compiled, Path.join(project, "_build/cargo_target")])

    File.write!(Path.join(project, "Cargo.toml"), """
    [workspace]
    members = ["theirs"]
    """)

    File.mkdir_p!(Path.join(project, "theirs/src"))
    File.write!(Path.join(project, "theirs/Cargo.toml"), "[package]\nname = \"theirs\"\nversion = \"1.0.0\"\n")
    File.write!(Path.join(project, "theirs/src/lib.rs"), "")

    # Another test below compiles Elixir as well.
    without_elixir(project)
    {output, status} = mix(project, ["compile"])
    assert status == 0, output
    assert output =~ "Compiling epmd_nif"
    assert File.regular?(Path.join([project, "_build/dev", @installed]))

    {output, 0} = mix(project, ["compile"])
    refute output =~ "Compiling", "a second mix compile has nothing to do"

    {output, 0} = mix(project, ["compile"], [{"MIX_ENV", "prod"}])
    refute output =~ "Compiling epmd", "another environment has no Rust to compile"
    assert File.regular?(Path.join([project, "_build/prod", @installed]))
  end

  test "a library that cargo made elsewhere is found, and none is no success", %{project: project} do
    without_elixir(project)
    elsewhere = Path.join(project, "elsewhere.so")
    File.write!(elsewhere, "the library")

    artifact =
      ~s({"reason":"compiler-artifact","target":{"kind":["cdylib"],"name":"epmd_nif"},) <>
        ~s("filenames":["#{elsewhere}"],"executable":null})

    path = fake_cargo(project, "1.99.0", "echo '#{artifact}'")
    {output, status} = mix(project, ["compile"], [{"PATH", path}])
    assert status == 0, output
    assert File.read!(Path.join([project, "_build/dev", @installed])) == "the library"

    path = fake_cargo(project, "1.99.0", ~s(echo '{"reason":"build-finished","success":true}'))
    {output, status} = mix(project, ["deps.compile", "--force"], [{"PATH", path}])
    assert status != 0
    assert output =~ "cargo ended well, but made no library of epmd_nif"
  end

  test "a real cargo is followed to wherever its configuration has the library made", %{project: project} do
    package = Path.join(project, "deps/embedded_epmd")
    hollow(package)
    triple = elem(Target.find(%{}), 1)
    elsewhere = Path.join(project, "else where")
    configuration = Path.join(project, ".cargo/config.toml")
    File.mkdir_p!(Path.dirname(configuration))

    for {text, environment, place} <- [
          {"", [], "_build/cargo_target/release"},
          {~s(target = "#{triple}"), [], "_build/cargo_target/#{triple}/release"},
          {"", [{"CARGO_BUILD_TARGET", triple}], "_build/cargo_target/#{triple}/release"},
          {~s(target-dir = "#{elsewhere}"), [], "_build/cargo_target/release"},
          {~s(target = "#{triple}"), [{"CARGO_TARGET_DIR", elsewhere}], Path.join(elsewhere, "#{triple}/release")}
        ] do
      File.write!(configuration, "[build]\n#{text}\n")
      {output, 0} = mix(package, ["compile.embedded_epmd_native"], environment)
      assert [library] = Path.wildcard(Path.expand(place, package) <> "/libepmd_nif.{so,dylib}"), output
      installed = Path.join([package, "_build/dev", @installed])
      assert File.read!(installed) == File.read!(library), output
      for folder <- [Path.join(package, "_build"), elsewhere], do: File.rm_rf!(folder)
    end
  end

  test "a commit of a git repository will do: from mix deps.get to a node", %{project: project} do
    repository = Path.join(project, "repository")
    package(repository)
    commit = commit(repository)
    File.write!(Path.join(repository, "mix.exs"), "raise \"a later commit\"")
    commit(repository)

    user = Path.join(project, "user")
    File.mkdir_p!(Path.join(user, "lib"))

    File.write!(Path.join(user, "mix.exs"), """
    defmodule User.MixProject do
      use Mix.Project
      def project, do: [app: :user, version: "1.0.0", deps: deps(), releases: [prod: []]]
      def application, do: [mod: {User, []}]
      defp deps, do: [{:embedded_epmd, git: "file://#{repository}", ref: "#{commit}"}]
    end
    """)

    File.write!(Path.join(user, "lib/user.ex"), """
    defmodule User do
      use Application

      def start(_type, _arguments) do
        IO.puts("\#{node()} greets")
        Supervisor.start_link([EmbeddedEpmd], strategy: :one_for_one)
      end
    end
    """)

    ready = Path.join(:code.priv_dir(:embedded_epmd), "native/epmd_nif.so")
    environment = [{"MIX_ENV", "prod"}, {"EMBEDDED_EPMD_NATIVE", ready}]

    for arguments <- [["deps.get"], ["embedded_epmd.install"], ["release", "--path", Path.join(project, "prod")]] do
      {output, status} = mix(user, arguments, environment)
      assert status == 0, output
    end

    node = unique("git")
    tmp = Path.join(project, "tmp")
    File.mkdir_p!(tmp)
    release = %{folder: project, tmp: tmp, node: node, port: free_port(), mode: "embedded"}
    on_exit(fn -> Release.clean_up(release) end)
    Release.start(release)
    assert [%{name: ^node}] = stock_names(release.port)
    assert {"serving\n", 0} = Release.run(release, "rpc", ["IO.puts(EmbeddedEpmd.status().role)"])
  end
end

defmodule EmbeddedEpmd.DependencyTest do
  # Without cargo, or with one that is not real.
  use ExUnit.Case, async: true

  import Support.Project, except: [new: 0]

  alias EmbeddedEpmd.Build.{Prebuilt, Target}
  alias Support.Project

  @moduletag timeout: 600_000

  @installed "lib/embedded_epmd/priv/native/epmd_nif.so"

  setup do
    %{project: Project.new()}
  end

  test "a library is taken from where the project's configuration says, without cargo", %{project: project} do
    without_elixir(project, ["embedded_epmd/native.ex"])
    served = Path.join(project, "served")
    triple = elem(Target.find(%{}), 1)
    name = Prebuilt.name(Mix.Project.config()[:version], triple)
    File.mkdir_p!(served)
    File.cp!(Path.join(:code.priv_dir(:embedded_epmd), "native/epmd_nif.so"), Path.join(served, name))
    File.write!(Path.join(served, "NOTICE"), "thanks")
    {_, 0} = System.cmd("tar", ["-czf", Path.join(served, name <> ".tar.gz"), "-C", served, name, "NOTICE"])
    sum = :crypto.hash(:sha256, File.read!(Path.join(served, name <> ".tar.gz"))) |> Base.encode16(case: :lower)
    sums = inspect(%{(name <> ".tar.gz") => "sha256:" <> sum})
    File.write!(Path.join([project, "deps/embedded_epmd", Prebuilt.checksums()]), sums)

    File.mkdir_p!(Path.join(project, "config"))

    File.write!(Path.join(project, "config/config.exs"), """
    import Config
    config :embedded_epmd, base_url: "file://#{served}"
    """)

    environment = [
      {"PATH", without_cargo(project)},
      {"RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH", Path.join(project, "cache")}
    ]

    {output, status} = mix(project, ["compile"], environment)
    assert status == 0, output
    installed = Path.join([project, "_build/dev", @installed])
    assert File.read!(installed) == File.read!(Path.join(served, name))
    assert File.read!(Path.join(Path.dirname(installed), "NOTICE")) == "thanks"

    # The library can be loaded, so it is complete.
    {output, 0} = mix(project, ["run", "-e", "EmbeddedEpmd.Native.load() |> inspect() |> IO.puts()"], environment)
    assert output =~ ":ok"

    # A build can be forced, and then needs cargo.
    for {variable, value} <- [{"EMBEDDED_EPMD_BUILD", "1"}, {"RUSTLER_PRECOMPILED_FORCE_BUILD_ALL", "true"}] do
      {output, 1} = mix(project, ["deps.compile", "--force"], [{variable, value} | environment])
      assert output =~ "cargo was not found"
    end
  end

  test "a ready library of another kind of machine is taken, and told when it comes", %{project: project} do
    without_elixir(project)
    ready = Path.join(project, "ready.so")
    File.write!(ready, "the library")
    environment = [{"EMBEDDED_EPMD_NATIVE", ready}]

    {output, 0} = mix(project, ["compile"], environment)

    assert output =~
             "warning: EMBEDDED_EPMD_NATIVE is no library, and this VM is #{elem(Target.find(%{}), 1)}: #{ready}"

    assert File.read!(Path.join([project, "_build/dev", @installed])) == "the library"
    {output, 0} = mix(project, ["compile"], environment)
    refute output =~ "warning"
  end

  test "without cargo, or with one of old, one sentence says what to do", %{project: project} do
    {output, status} = mix(project, ["compile"], [{"PATH", without_cargo(project)}])
    assert status != 0

    assert output =~
             ~r/needs Rust to compile its NIF, and cargo was not found: install Rust [0-9.]+ or newer .*apt-get install rustc-web cargo-web/

    {output, status} = mix(project, ["compile"], [{"PATH", fake_cargo(project, "1.63.0", "exit 1")}])
    assert status != 0
    assert output =~ ~r/needs Rust to compile its NIF, and cargo 1\.63\.0 is too old: install Rust/
  end

  test "a target without a linker is told which variable names it, and Nerves' compiler is taken", %{project: project} do
    triple = "armv7-unknown-linux-gnueabihf"

    path =
      fake_cargo(
        project,
        "1.99.0",
        ~s(echo "$@ linker=$CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER" >&2; exit 101)
      )

    {output, status} = mix(project, ["compile"], [{"PATH", path}, {"CARGO_BUILD_TARGET", triple}])
    assert status != 0
    assert output =~ "--target #{triple}"
    assert output =~ ~r/status 101; .*; to link for #{triple}, name a C compiler for it in CARGO_TARGET_ARMV7_.*_LINKER/

    nerves = [{"TARGET_ARCH", "arm"}, {"TARGET_OS", "linux"}, {"TARGET_ABI", "gnueabihf"}, {"TARGET_CPU", "cortex_a8"}]
    {output, 1} = mix(project, ["compile"], [{"PATH", path}, {"CC", System.find_executable("sh")} | nerves])
    assert output =~ "--target #{triple} linker=#{System.find_executable("sh")}"
  end
end
