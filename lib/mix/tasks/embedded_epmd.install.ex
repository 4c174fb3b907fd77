defmodule Mix.Tasks.EmbeddedEpmd.Install do
  @shortdoc "Sets up a project's releases for embedded_epmd"

  @moduledoc """
  Creates or amends the two files that make a project's releases use `embedded_epmd`, and shows the line for the
  supervision tree.

      mix embedded_epmd.install [--local] [--yes]

    * `rel/vm.args.eex` gets `-start_epmd false` and `-epmd_module Elixir.EmbeddedEpmd.Discovery`
    * `rel/remote.vm.args.eex`, which `bin/app rpc`, `remote`, `stop` and `pid` read, gets `-start_epmd false`

  With `--local` the first file also gets `-embedded_epmd local true`, which closes the node and its EPMD to other
  hosts.

  The task shows the lines that it would add to an existing file, and asks before it adds them; with `--yes` it does not
  ask. It changes nothing, and raises, if one of the files has a contradicting flag: another `-epmd_module`,
  `-start_epmd true`, `-no_epmd`, or `-erl_epmd_port`, with which a node needs no EPMD at all. If only one of the two
  files has `-proto_dist` or the options of TLS, it offers those for the other: `rpc` and the like must use the
  transport of the node. It reads flags as OTP does, including files that `-args_file` names. Running it again changes
  nothing.

  Run it where releases are assembled, which in an umbrella is the root. It honours a release's `:rel_templates_path`.
  If releases share a file and one of them does not contain `embedded_epmd`, it writes the flags inside a condition on
  the release's applications. If `config :kernel, epmd_module: EmbeddedEpmd.Discovery` (OTP 27.2 and later) names the
  module, it does not write the flag, since a VM with both does not start.
  """

  use Mix.Task

  alias Mix.EmbeddedEpmd, as: Project

  @impl Mix.Task
  def run(arguments) do
    {options, []} = Project.arguments!(arguments, [local: :boolean, yes: :boolean], [])
    releases = Project.releases!()
    parameter = Project.parameter()

    verdicts =
      for template <- Project.templates(releases),
          do: {template, Project.judge(template, parameter != nil, options[:local] == true)}

    case contradictions(releases, parameter, verdicts) do
      [] -> Enum.each(verdicts, &apply_verdict(&1, options[:yes]))
      sentences -> Mix.raise("nothing was changed:\n\n" <> Enum.map_join(sentences, "\n", &("  * " <> &1)))
    end

    Enum.each(releases, &report/1)

    Mix.shell().info("""

    As the first child of your application's supervisor:

        children = [EmbeddedEpmd]
    """)
  end

  defp contradictions(releases, parameter, verdicts) do
    without = if Enum.any?(releases, & &1.contains?), do: nil, else: "no release contains it: #{Project.why_missing()}"
    in_files = for {%{path: path}, {:contradiction, sentence}} <- verdicts, do: "#{path} #{sentence}"
    Enum.filter([without, Project.parameter_error(parameter, releases)], & &1) ++ in_files
  end

  defp report(%{error: error, name: name}) when error != nil,
    do: Mix.shell().info("* whether the release #{name} contains embedded_epmd cannot be told here: #{error}")

  defp report(%{contains?: false, name: name}),
    do: Mix.shell().info("* the release #{name} does not contain embedded_epmd, and keeps OTP's daemon")

  defp report(_release), do: :ok

  defp apply_verdict({template, verdict}, yes) do
    write(template, verdict, yes)

    for included <- Project.unread(template),
        do:
          Mix.shell().info(
            "* #{template.path} includes #{included}, which cannot be read here: its flags count as well"
          )
  end

  defp write(%{path: path}, :nothing_to_do, _yes), do: Mix.shell().info("* #{path} has all it needs")

  defp write(%{path: path, content: old}, {:amend, new, _lines}, yes) do
    if old in [nil, ""] or yes == true or agreed?(path, old, new) do
      File.mkdir_p!(Path.dirname(path))
      File.write!(path, new)
      Mix.shell().info("* #{if old, do: "changed", else: "created"} #{path}")
    else
      Mix.shell().info("* left #{path} as it is; it needs:\n\n" <> added(old, new))
    end
  end

  defp agreed?(path, old, new) do
    Mix.shell().info("#{path} would get these lines at its end:\n\n" <> added(old, new))
    Mix.shell().yes?("Change #{path}?")
  end

  # Lines are only ever added at the end, so this is the whole difference.
  defp added(old, new) do
    new
    |> String.replace_prefix(String.trim_trailing(old), "")
    |> String.trim()
    |> String.split("\n")
    |> Enum.map_join(&"    + #{&1}\n")
  end
end
