defmodule Mix.EmbeddedEpmd do
  @moduledoc false
  # For the tasks: their arguments, a project's releases, the templates of vm.args, and what a template lacks.

  alias EmbeddedEpmd.Doctor.VmArgs
  alias EmbeddedEpmd.{Discovery, Doctor}

  @condition "<%= if Map.has_key?(@release.applications, :embedded_epmd) do %>"
  @heading "## The EPMD is inside the VM: https://hexdocs.pm/mix/Mix.Tasks.Release.html#module-vm-args"

  @typedoc "If Mix cannot tell what the release contains, `assembled` is nil and `error` says why."
  @type release :: %{
          name: atom(),
          folder: Path.t(),
          contains?: boolean(),
          assembled: Mix.Release.t() | nil,
          error: String.t() | nil
        }

  @typedoc """
  A template of vm.args or remote.vm.args; `content` is nil if the file does not exist. `other` is the content of the
  other one, and `script` that of env.sh.eex, whose flags count in both.
  """
  @type template :: %{
          path: Path.t(),
          kind: VmArgs.kind(),
          content: String.t() | nil,
          other: String.t() | nil,
          script: String.t(),
          releases: [release()]
        }

  @type verdict :: :nothing_to_do | {:amend, new :: String.t(), lines :: [String.t()]} | {:contradiction, String.t()}

  ## The arguments

  @doc "A task's options, and what else was given. Raises if the task has no such option or takes no more arguments."
  @spec arguments!([String.t()], switches :: keyword(), parameters :: [String.t()]) :: {keyword(), [String.t()]}
  def arguments!(arguments, switches, parameters) do
    {options, given} = OptionParser.parse!(arguments, strict: switches)

    if length(given) > length(parameters),
      do: Mix.raise("expected #{expected(parameters)}, got: #{Enum.join(given, " ")}")

    {options, given}
  rescue
    # Mix shows the stack of any other exception.
    error in OptionParser.ParseError -> Mix.raise(Exception.message(error))
  end

  defp expected([]), do: "no arguments"
  defp expected([parameter]), do: "one #{parameter} at most"

  @doc "The port of `--port` or, without it, of the settings. Raises if it is none."
  @spec port!(integer() | nil) :: :inet.port_number()
  def port!(nil), do: settings!().port
  def port!(port) when port in 1..65_535, do: port
  def port!(port), do: Mix.raise("--port must be a port from 1 to 65535, got: #{port}")

  @doc "The settings. Raises if one is not valid."
  @spec settings!() :: EmbeddedEpmd.Native.config()
  def settings! do
    EmbeddedEpmd.Boot.Config.load()
  rescue
    error in ArgumentError -> Mix.raise(error.message)
  end

  ## The releases

  @doc "The releases of this project. Raises if no releases are assembled here."
  @spec releases!() :: [release(), ...]
  def releases! do
    config = Mix.Project.config()
    names = Keyword.keys(config[:releases] || [])

    cond do
      names != [] ->
        compiled(names, config)

      Mix.Project.umbrella?(config) ->
        Mix.raise(
          "this umbrella has no `releases:` in its mix.exs, so that none is assembled here: name one, such as " <>
            "`releases: [all: [applications: [app: :permanent]]]`, or run this in the application that is released by itself"
        )

      root = umbrella() ->
        Mix.raise(
          "the releases of this umbrella are assembled in its root, and nothing here is read: run this in #{root}"
        )

      true ->
        compiled([nil], config)
    end
  end

  # Mix knows the dependencies of an application only once it is compiled.
  defp compiled(names, config) do
    Mix.Task.run("compile")
    for name <- names, do: release(name, config)
  end

  defp release(name, config) do
    assembled = Mix.Release.from_config!(name, config, [])

    %{
      name: assembled.name,
      folder: assembled.options[:rel_templates_path] || "rel",
      contains?: Map.has_key?(assembled.applications, :embedded_epmd),
      assembled: assembled,
      error: nil
    }
  rescue
    error in Mix.Error ->
      options = config[:releases][name]
      folder = if is_list(options), do: options[:rel_templates_path]
      error = error |> Exception.message() |> String.split("\n") |> hd()
      %{name: name || config[:app], folder: folder || "rel", contains?: true, assembled: nil, error: error}
  end

  # The root of the umbrella that this application belongs to, if the root has releases. Mix itself does not know the
  # root when it is started in the application.
  defp umbrella do
    here = File.cwd!()
    root = here |> Path.dirname() |> Stream.iterate(&Path.dirname/1) |> Enum.find(&(&1 == "/" or project?(&1)))

    with true <- trusted?(Path.join(root, "mix.exs")),
         {:ok, text} <- File.read(Path.join(root, "mix.exs")),
         true <- text =~ "apps_path",
         config = Mix.Project.in_project(:umbrella_of_embedded_epmd, root, &config/1),
         apps when is_binary(apps) <- config[:apps_path],
         true <- Path.expand(apps, root) == Path.dirname(here) and config[:releases] not in [nil, []] do
      root
    else
      _ -> nil
    end
  end

  # What is evaluated must be of whoever wrote this project, or root's: into /tmp anybody may write.
  defp trusted?(file) do
    with {:ok, %{uid: user}} <- File.stat(file),
         {:ok, %{uid: own}} <- File.stat(Mix.Project.project_file()),
         do: user in [0, own],
         else: (_ -> false)
  end

  defp project?(folder), do: File.regular?(Path.join(folder, "mix.exs"))

  @doc "Why a release does not contain the library, as a clause."
  @spec why_missing() :: String.t()
  def why_missing do
    if Enum.any?(configs(), fn config -> Enum.any?(config[:deps] || [], &runtime_false?/1) end),
      do: "the dependency has `runtime: false`, which keeps it out",
      else: "none of its applications has it among its dependencies"
  end

  # The configurations of this project and, in an umbrella, of its applications.
  defp configs do
    apps = for {app, path} <- Mix.Project.apps_paths() || %{}, do: Mix.Project.in_project(app, path, &config/1)
    [Mix.Project.config() | apps]
  end

  defp config(_module), do: Mix.Project.config()

  defp runtime_false?({:embedded_epmd, options}) when is_list(options), do: options[:runtime] == false
  defp runtime_false?({:embedded_epmd, _requirement, options}), do: options[:runtime] == false
  defp runtime_false?(_dependency), do: false

  ## The kernel parameter

  @doc "The file that sets the kernel parameter `epmd_module` for releases, and its value; `nil` if none does."
  @spec parameter() :: {Path.t(), module()} | nil
  def parameter do
    Enum.find_value(configurations(), fn file ->
      with module when module != nil <- parameter(file), do: {Path.relative_to_cwd(file), module}
    end)
  end

  defp parameter(file) do
    read(file)[:kernel][:epmd_module]
  rescue
    # The file may need what exists only when the release runs. Then its text is searched.
    _ ->
      with [_, module] <- Regex.run(~r/^[^#\n]*\bepmd_module:\s*([\w.]+)/m, File.read!(file)),
           do: Module.concat([module])
  end

  @doc "The keys that these files set for this library, by file. A file that cannot be read here has none."
  @spec keys() :: [{Path.t(), [atom()]}]
  def keys, do: for(file <- configurations(), do: {Path.relative_to_cwd(file), keys(file)})

  defp keys(file) do
    Keyword.keys(read(file)[:embedded_epmd] || [])
  rescue
    _ -> []
  end

  # The files that exist.
  defp configurations do
    config = Mix.Project.config()[:config_path]
    Enum.filter([config, Path.join(Path.dirname(config), "runtime.exs")], &File.regular?/1)
  end

  # A file, as a release gets it.
  defp read(file) do
    env = if Mix.env() in [:dev, :test], do: :prod, else: Mix.env()
    in_a_release(fn -> Config.Reader.read!(file, env: env, target: Mix.target()) end)
  end

  # Mix advises to test this variable in runtime.exs for parameters of kernel, which only releases may set.
  defp in_a_release(read) do
    mode = System.get_env("RELEASE_MODE")

    try do
      System.put_env("RELEASE_MODE", "embedded")
      read.()
    after
      System.put_env([{"RELEASE_MODE", mode}])
    end
  end

  @doc "What is wrong with the parameter, as a sentence; `nil` if nothing."
  @spec parameter_error({Path.t(), module()} | nil, [release()]) :: String.t() | nil
  def parameter_error(nil, _releases), do: nil

  def parameter_error({file, module}, releases) do
    reboots? = Enum.all?(releases, &(&1.assembled && &1.assembled.options[:reboot_system_after_config]))

    cond do
      module != Discovery ->
        "#{file} has `config :kernel, epmd_module: #{inspect(module)}`, another discovery module"

      not Doctor.Facts.parameter_read?() ->
        "#{file} has `config :kernel, epmd_module:`, which OTP reads from 27.2 on, and this is OTP " <>
          "#{System.otp_release()}: remove it, the flag works everywhere"

      Path.basename(file) == "runtime.exs" and not reboots? ->
        "#{file} has `config :kernel, epmd_module:`, and is read when the node has been registered: write it into config.exs"

      true ->
        nil
    end
  end

  ## The templates

  @doc "The templates that these releases use."
  @spec templates([release()]) :: [template()]
  def templates(releases) do
    for {folder, releases} <- Enum.group_by(releases, & &1.folder),
        {kind, name, other} <- [
          {:vm_args, "vm.args.eex", "remote.vm.args.eex"},
          {:remote_vm_args, "remote.vm.args.eex", "vm.args.eex"}
        ] do
      path = Path.join(folder, name)
      script = content(folder, "env.sh.eex") || ""

      %{path: path, kind: kind, content: content(folder, name), other: content(folder, other)}
      |> Map.merge(%{script: script, releases: releases})
    end
  end

  defp content(folder, name) do
    with {:ok, content} <- File.read(Path.join(folder, name)), do: content, else: (_ -> nil)
  end

  @doc "The files that a template includes and that cannot be read here."
  @spec unread(template()) :: [Path.t()]
  def unread(%{content: content, releases: releases}),
    do: releases |> Enum.flat_map(&VmArgs.unread(flags(content, &1))) |> Enum.uniq()

  defp flags(content, release), do: content |> render(release) |> VmArgs.flags()

  @doc """
  What has to be done with a template, given whether the kernel parameter names the module, and whether the node is to be
  closed to other hosts.
  """
  @spec judge(template(), parameter? :: boolean(), local? :: boolean()) :: verdict()
  def judge(%{kind: kind, content: content, releases: releases} = template, parameter?, local? \\ false) do
    rendered = for release <- releases, do: {release, flags(content, release)}
    {with_it, without_it} = Enum.split_with(rendered, fn {release, _} -> release.contains? end)

    contradiction =
      Enum.find_value(with_it, fn {_, flags} -> VmArgs.contradiction(flags, kind, parameter?) end) ||
        Enum.find_value(with_it, fn {release, flags} -> transports_differ(template, release, flags) end) ||
        Enum.find_value(without_it, &undefined_module/1) ||
        Enum.find_value(with_it, fn {_, flags} ->
          with({:error, text} <- local(flags, kind, local?), do: text, else: (_ -> nil))
        end)

    missing =
      for {release, flags} <- with_it,
          contradiction == nil,
          flag <-
            missing(flags, kind, parameter?) ++ transport_lacks(template, release, flags) ++ local(flags, kind, local?),
          uniq: true,
          do: VmArgs.line(flag)

    cond do
      contradiction -> {:contradiction, contradiction}
      missing == [] -> :nothing_to_do
      true -> {:amend, append(content, missing, without_it != []), missing}
    end
  end

  defp missing(flags, kind, parameter?),
    do: VmArgs.missing(flags, VmArgs.required(kind, parameter? or VmArgs.parameter(flags, "epmd_module") != nil))

  # The clients listen nowhere.
  defp local(flags, :vm_args, true), do: VmArgs.local(flags)
  defp local(_flags, _kind, _local?), do: []

  # The clients must use the node's transport. What env.sh sets is set for both.
  defp transport_lacks(%{other: other, script: script}, release, flags) do
    script = script |> render(release) |> VmArgs.of_script()
    VmArgs.transport_lacks(flags ++ script, flags(other, release) ++ script)
  end

  defp transports_differ(%{kind: :vm_args, other: other}, release, flags) do
    with {of_node, of_clients} <- VmArgs.transports_differ(flags, flags(other, release)),
         do: "has -proto_dist #{of_node}, and remote.vm.args.eex has -proto_dist #{of_clients}"
  end

  defp transports_differ(_template, _release, _flags), do: nil

  # A release that names the module and does not contain it ends with undef when its node starts.
  defp undefined_module({release, flags}) do
    if VmArgs.discovery?(flags) do
      "names EmbeddedEpmd.Discovery also for the release #{release.name}, which does not contain embedded_epmd and will " <>
        "not boot: write the flags between #{@condition} and <% end %>"
    end
  end

  # The template as this release gets it. If it cannot be rendered here, its text as it is.
  defp render(nil, _release), do: ""
  defp render(content, %{assembled: nil}), do: content

  defp render(content, %{assembled: release}) do
    # EEx is there whenever Mix runs. It is no dependency of this library.
    Function.capture(EEx, :eval_string, 2).(content, assigns: [release: release])
  rescue
    _ -> content
  end

  defp append(content, lines, conditional?) do
    lines = for line <- lines, do: [line, "\n"]
    lines = if conditional?, do: [@condition, "\n", lines, "<% end %>\n"], else: lines
    before = if content in [nil, ""], do: "", else: [String.trim_trailing(content), "\n\n"]
    IO.iodata_to_binary([before, @heading, "\n", lines])
  end
end
