defmodule Support.Project do
  @moduledoc "A project of somebody who depends on this library, as it is packed."

  @repository Path.expand("../..", __DIR__)

  @doc "Creates one; returns its folder, which is deleted at the end of the test."
  def new do
    project = Support.Folder.new("user")

    File.write!(Path.join(project, "mix.exs"), """
    defmodule User.MixProject do
      use Mix.Project
      def project, do: [app: :user, version: "1.0.0", deps: [{:embedded_epmd, path: "deps/embedded_epmd"}]]
    end
    """)

    package(Path.join(project, "deps/embedded_epmd"))
    project
  end

  @doc "Copies the files that `mix hex.build` packs, and no others."
  def package(folder) do
    for pattern <- Mix.Project.config()[:package][:files],
        path <- Path.wildcard(Path.join(@repository, pattern), match_dot: true) do
      to = Path.join(folder, Path.relative_to(path, @repository))
      File.mkdir_p!(Path.dirname(to))
      File.cp_r!(path, to)
    end
  end

  @doc "Takes from a project's copy of the library what Elixir would compile, which takes time, but for these files."
  def without_elixir(project, but \\ []) do
    lib = Path.join(project, "deps/embedded_epmd/lib")
    for file <- Path.wildcard(Path.join(lib, "**/*.ex")), Path.relative_to(file, lib) not in but, do: File.rm!(file)
  end

  @doc "Takes from a package what cargo would compile."
  def hollow(package) do
    for crate <- ~w(native/epmd_core native/epmd_tools bench), do: File.rm_rf!(Path.join(package, crate))
    workspace = Path.join(package, "Cargo.toml")
    # Without its profile, which takes time.
    [kept, _] =
      workspace
      |> File.read!()
      |> String.replace(~r/^members = .*/m, ~s(members = ["native/epmd_nif"]))
      |> String.split("[profile", parts: 2)

    File.write!(workspace, kept)
    version = Mix.Project.config()[:version]
    about = ~s(name = "epmd_nif"\nversion = "#{version}"\n)
    File.write!(Path.join(package, "Cargo.lock"), "version = 4\n\n[[package]]\n" <> about)
    File.rm_rf!(Path.join(package, "native/epmd_nif"))
    File.mkdir_p!(Path.join(package, "native/epmd_nif/src"))
    File.write!(Path.join(package, "native/epmd_nif/src/lib.rs"), "")

    File.write!(
      Path.join(package, "native/epmd_nif/Cargo.toml"),
      "[package]\n#{about}[lib]\ncrate-type = [\"cdylib\"]\n"
    )
  end

  @doc "Makes a repository of a folder; returns its commit."
  def commit(repository) do
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    git = fn arguments -> {_, 0} = System.cmd("git", ["-C", repository | arguments], stderr_to_stdout: true) end
    git.(["init", "--quiet"])
    git.(["add", "--all"])
    git.(who ++ ["commit", "--quiet", "--message", "As it stands"])
    {commit, 0} = System.cmd("git", ["-C", repository, "rev-parse", "HEAD"])
    String.trim(commit)
  end

  @doc "Runs Mix in the project; returns its output and status."
  def mix(project, arguments, environment \\ []) do
    ours = ~w(EMBEDDED_EPMD_NATIVE EMBEDDED_EPMD_BASE_URL CARGO_TARGET_DIR CARGO_BUILD_TARGET RUSTC_WORKSPACE_WRAPPER)
    environment = [{"MIX_ENV", "dev"} | Enum.map(ours, &{&1, nil})] ++ environment
    mix = System.find_executable("mix")
    elixir = System.find_executable("elixir")
    System.cmd(elixir, [mix | arguments], cd: project, env: environment, stderr_to_stdout: true)
  end

  @doc """
  The environment of a Mix command in this repository. It takes the library that is there: cargo, or another Mix command,
  may have the build directory locked, and who waits says so in the output.
  """
  def here do
    [
      {"MIX_ENV", "test"},
      {"EMBEDDED_EPMD_NATIVE", Path.join(:code.priv_dir(:embedded_epmd), "native/epmd_nif.so")},
      {"MIX_OS_CONCURRENCY_LOCK", "0"}
    ]
  end

  @doc "A PATH without cargo, which Debian installs into the same folder as erl."
  def without_cargo(project) do
    folder = Path.join(project, "tools")
    File.mkdir_p!(folder)

    for tool <- ~w(erl sh sed dirname basename readlink) do
      _ = File.ln_s(System.find_executable(tool), Path.join(folder, tool))
    end

    folder
  end

  @doc "A PATH with a cargo of this version, which does this."
  def fake_cargo(project, version, action) do
    folder = Path.join(project, "bin")
    File.mkdir_p!(folder)
    script = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'cargo #{version}'; exit; fi\n#{action}\n"
    File.write!(Path.join(folder, "cargo"), script)
    File.chmod!(Path.join(folder, "cargo"), 0o755)
    folder <> ":" <> System.get_env("PATH")
  end
end
