defmodule Support.Umbrella do
  @moduledoc """
  An umbrella as `mix new --umbrella` creates it, with an application `web` that depends on this library and
  supervises `EmbeddedEpmd`, and an application `back` that does not.
  """

  alias Support.Release

  @repository Path.expand("../..", __DIR__)
  @releases "[prod: [applications: [web: :permanent]], back: [applications: [back: :permanent]]]"

  @doc "One in a folder of its own, compiled; returns its root, which has no `releases:` yet."
  def new, do: Support.Once.get(__MODULE__, &create/0, &clean_up/1) |> copy()

  defp create do
    folder =
      Path.join(System.tmp_dir!(), "embedded_epmd_umbrella_#{System.pid()}_#{System.unique_integer([:positive])}")

    root = Path.join(folder, "big")
    File.mkdir_p!(folder)
    {_, 0} = mix(folder, ["new", "big", "--umbrella"])
    {_, 0} = mix(Path.join(root, "apps"), ["new", "web", "--sup"])
    {_, 0} = mix(Path.join(root, "apps"), ["new", "back", "--sup"])
    depend(root)

    edit(root, "apps/web/lib/web/application.ex", "children = [", """
    # The tests wait for it.
    IO.puts("\#{node()} greets")
    children = [EmbeddedEpmd
    """)

    builds = Path.join(root, "_build/prod/lib")
    File.mkdir_p!(builds)
    {_, 0} = System.cmd("cp", ["-a", Release.compiled_library(), builds])
    {_, 0} = mix(root, ["compile"])
    root
  end

  defp copy(root) do
    folder =
      Path.join(System.tmp_dir!(), "embedded_epmd_umbrella_#{System.pid()}_#{System.unique_integer([:positive])}")

    File.mkdir_p!(folder)
    {_, 0} = System.cmd("cp", ["-a", root, folder])
    Path.join(folder, "big")
  end

  @doc "Ends all processes of its releases, and deletes it."
  def clean_up(root), do: Release.clean_up(%{tmp: Path.dirname(root)})

  @doc "Adds `releases:` to the `mix.exs` of the root."
  def releases(root, releases \\ @releases),
    do: edit(root, "mix.exs", "deps: deps()", "deps: deps(), releases: #{releases}")

  @doc "Makes `web` depend on the library, with further options of the dependency."
  def depend(root, options \\ "") do
    dependency = "{:embedded_epmd, path: #{inspect(@repository)}#{options}}"
    mix_exs = Path.join(root, "apps/web/mix.exs")
    File.write!(mix_exs, String.replace(File.read!(mix_exs), ~r/defp deps do.*?\]/s, "defp deps do\n[#{dependency}]"))
  end

  @doc "The flags in a file, without its comments."
  def flags(root, path) do
    lines = root |> Path.join(path) |> File.read!() |> String.split("\n", trim: true)
    for line <- lines, not String.starts_with?(line, "#"), do: line
  end

  @doc "Replaces a text that occurs once in a file."
  def edit(root, file, old, new) do
    path = Path.join(root, file)
    [before, behind] = String.split(File.read!(path), old)
    File.write!(path, before <> String.trim_trailing(new) <> behind)
  end

  @doc "Writes a file into it."
  def write(root, file, text) do
    path = Path.join(root, file)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text)
  end

  @doc "Runs Mix there, with this text as its input; returns its output and status."
  def mix(folder, arguments, input \\ "") do
    System.cmd("sh", ["-c", "printf '#{input}' | mix \"$@\"", "sh" | arguments],
      cd: folder,
      env: environment(),
      stderr_to_stdout: true
    )
  end

  defp environment do
    [
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", nil},
      {"EMBEDDED_EPMD_NATIVE", Path.join([:code.lib_dir(:embedded_epmd), "priv", "native", "epmd_nif.so"])}
    ]
  end
end
