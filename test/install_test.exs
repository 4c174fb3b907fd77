defmodule EmbeddedEpmd.InstallTest do
  # The tasks install and doctor, in real projects.
  use ExUnit.Case, async: true

  import EmbeddedEpmd.Umbrella, except: [new: 0]

  alias EmbeddedEpmd.Doctor.Facts
  alias EmbeddedEpmd.Umbrella

  @moduletag timeout: 180_000

  @vm_args "rel/vm.args.eex"
  @remote "rel/remote.vm.args.eex"
  @both_flags ["-start_epmd false", "-epmd_module Elixir.EmbeddedEpmd.Discovery"]
  @condition "<%= if Map.has_key?(@release.applications, :embedded_epmd) do %>"
  @only "[prod: [applications: [web: :permanent]]]"

  setup_all do
    compiled = Umbrella.new()
    on_exit(fn -> clean_up(compiled) end)
    %{compiled: compiled}
  end

  setup %{compiled: compiled} do
    root = copy(compiled)
    on_exit(fn -> clean_up(root) end)
    %{root: root}
  end

  describe "in the root of an umbrella" do
    test "writes both files, which hold nothing but the flags, and has nothing to do again", %{root: root} do
      releases(root, @only)
      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@vm_args} is missing; it should have -start_epmd false and -epmd_module"

      assert {text, 0} = mix(root, ["embedded_epmd.install"])
      assert text =~ "* created #{@vm_args}"
      assert text =~ "children = [EmbeddedEpmd]"
      assert flags(root, @vm_args) == @both_flags
      assert flags(root, @remote) == ["-start_epmd false"]

      written = File.read!(Path.join(root, @vm_args))
      assert {text, 0} = mix(root, ["embedded_epmd.install"])
      assert text =~ "* #{@vm_args} has all it needs"
      assert File.read!(Path.join(root, @vm_args)) == written

      assert {text, 0} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "ok       #{@vm_args} has all it needs."
      refute text =~ "PROBLEM"
    end

    test "a release without the library shares the files, and keeps OTP's daemon", %{root: root} do
      releases(root)
      assert {text, 0} = mix(root, ["embedded_epmd.install"])
      assert text =~ "* the release back does not contain embedded_epmd, and keeps OTP's daemon"
      assert flags(root, @vm_args) == [@condition] ++ @both_flags ++ ["<% end %>"]
      assert flags(root, @remote) == [@condition, "-start_epmd false", "<% end %>"]

      assert {text, 0} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "ok       #{@vm_args} has all it needs."
      assert text =~ "ok       The release back does not contain embedded_epmd: none of its applications"
    end

    test "a module that a release does not contain is a contradiction", %{root: root} do
      releases(root)
      write(root, @vm_args, Enum.join(@both_flags, "\n"))

      sentence =
        "#{@vm_args} names EmbeddedEpmd.Discovery also for the release back, which does not contain embedded_epmd"

      assert {text, 1} = mix(root, ["embedded_epmd.install", "--yes"])
      assert text =~ "nothing was changed:\n\n  * " <> sentence
      assert text =~ @condition
      refute File.exists?(Path.join(root, @remote))

      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  " <> sentence
    end

    test "the files of each release are where it says", %{root: root} do
      releases(root, """
      [prod: [applications: [web: :permanent], rel_templates_path: "rel/web"],
       back: [applications: [back: :permanent], rel_templates_path: "rel/back"]]
      """)

      assert {_, 0} = mix(root, ["embedded_epmd.install"])
      assert flags(root, "rel/web/vm.args.eex") == @both_flags
      assert flags(root, "rel/web/remote.vm.args.eex") == ["-start_epmd false"]
      assert File.ls!(Path.join(root, "rel")) == ["web"]

      assert {text, 0} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "ok       rel/web/vm.args.eex has all it needs."
    end

    test "a setting that is misspelt is named, with its file and the nearest one", %{root: root} do
      releases(root, @only)
      assert {_, 0} = mix(root, ["embedded_epmd.install"])
      write(root, "config/config.exs", "import Config\nconfig :embedded_epmd, adresses: [], build: false\n")
      write(root, "config/runtime.exs", "import Config\nconfig :embedded_epmd, prot: 4370, standbys: 2\n")
      assert {text, 0} = mix(root, ["embedded_epmd.doctor"])

      for {file, misspelt, setting} <- [{"config", "adresses", "addresses"}, {"runtime", "prot", "port"}] do
        assert text =~
                 "warning  config/#{file}.exs: config :embedded_epmd, #{misspelt} is no setting, and is ignored: " <>
                   "did you mean #{setting}?\n"
      end

      refute text =~ "build is no setting"
      refute text =~ "standbys is no setting"
    end

    test "says that there are no releases", %{root: root} do
      for task <- ["embedded_epmd.install", "embedded_epmd.doctor"] do
        assert {text, 1} = mix(root, [task])
        assert text =~ "this umbrella has no `releases:` in its mix.exs"
      end

      refute File.exists?(Path.join(root, "rel"))
    end

    test "a release whose applications are not known here is taken for one that has it", %{root: root} do
      releases(root, "[prod: [applications: [web: :permanent]], odd: [applications: [nowhere: :permanent]]]")
      assert {text, 0} = mix(root, ["embedded_epmd.install"])
      assert text =~ "* whether the release odd contains embedded_epmd cannot be told here: "
      assert flags(root, @vm_args) == @both_flags
      assert {text, 0} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "warning  Whether the release odd contains embedded_epmd cannot be told"
    end

    test "a dependency that is kept out of releases is noticed", %{root: root} do
      releases(root, @only)
      depend(root, ", runtime: false")
      assert {text, 1} = mix(root, ["embedded_epmd.install"])
      assert text =~ "no release contains it: the dependency has `runtime: false`, which keeps it out"
      refute File.exists?(Path.join(root, "rel"))

      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  No release of this project contains embedded_epmd: the dependency has `runtime: false`"
    end
  end

  describe "in an application of an umbrella" do
    test "says where to go, and writes nothing", %{root: root} do
      releases(root, @only)
      child = Path.join(root, "apps/web")

      for task <- ["embedded_epmd.install", "embedded_epmd.doctor"] do
        assert {text, 1} = mix(child, [task])
        assert text =~ "the releases of this umbrella are assembled in its root"
        assert text =~ "run this in #{root}"
      end

      refute File.exists?(Path.join(child, "rel"))
    end

    test "that is released by itself, writes its files", %{root: root} do
      child = Path.join(root, "apps/web")
      assert {_, 0} = mix(child, ["embedded_epmd.install"])
      assert flags(child, @vm_args) == @both_flags
      assert {_, 0} = mix(child, ["embedded_epmd.doctor"])
    end
  end

  describe "the kernel parameter" do
    test "takes the place of the flag where OTP reads it", %{root: root} do
      releases(root, @only)
      write(root, "config/config.exs", "import Config\nconfig :kernel, epmd_module: EmbeddedEpmd.Discovery\n")
      {installed, _} = mix(root, ["embedded_epmd.install"])
      {examined, status} = mix(root, ["embedded_epmd.doctor"])

      if Facts.parameter_read?() do
        assert flags(root, @vm_args) == ["-start_epmd false"]
        assert status == 0
        assert examined =~ "ok       config/config.exs names EmbeddedEpmd.Discovery as the kernel parameter epmd_module"
      else
        assert installed =~ "config/config.exs has `config :kernel, epmd_module:`, which OTP reads from 27.2 on"
        assert {status, File.exists?(Path.join(root, "rel"))} == {1, false}
        assert examined =~ "PROBLEM  config/config.exs has `config :kernel, epmd_module:`, which OTP reads from 27.2 on"
      end
    end

    test "beside the flag is a contradiction, also where it stands for production only", %{root: root} do
      releases(root, @only)
      write(root, @vm_args, Enum.join(@both_flags, "\n"))

      write(root, "config/config.exs", """
      import Config
      if config_env() == :prod, do: config(:kernel, epmd_module: EmbeddedEpmd.Discovery)
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])

      assert text =~
               "#{@vm_args} has -epmd_module Elixir.EmbeddedEpmd.Discovery beside the kernel parameter epmd_module"

      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@vm_args} has -epmd_module Elixir.EmbeddedEpmd.Discovery beside the kernel parameter"
    end

    test "of releases only is seen in runtime.exs, which is read too late for it without a reboot", %{root: root} do
      releases(root, @only)

      write(root, "config/runtime.exs", """
      import Config
      if System.get_env("RELEASE_MODE"), do: config(:kernel, epmd_module: EmbeddedEpmd.Discovery)
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])
      assert text =~ "config/runtime.exs has `config :kernel, epmd_module:`, "
      assert text =~ if(Facts.parameter_read?(), do: "and is read when the node has been registered", else: "27.2")
    end

    test "is seen in a runtime.exs that can be read when the release runs only", %{root: root} do
      releases(root, @only)

      write(root, "config/runtime.exs", """
      import Config
      config :web, secret: System.fetch_env!("NOT_SET_HERE")
      config :kernel, epmd_module: Other
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])
      assert text =~ "config/runtime.exs has `config :kernel, epmd_module: Other`, another discovery module"
    end
  end

  describe "a file that is there" do
    setup %{root: root} do
      releases(root, @only)
    end

    test "is shown as it would change, and kept as it is without consent", %{root: root} do
      write(root, @vm_args, "## Number of ports\n+Q 65536\n-start_epmd false\n## -epmd_module Elixir.Other\n")
      assert {text, 0} = mix(root, ["embedded_epmd.install"], "n\\n")
      assert text =~ "+ -epmd_module Elixir.EmbeddedEpmd.Discovery"
      assert flags(root, @vm_args) == ["+Q 65536", "-start_epmd false"]

      assert {_, 0} = mix(root, ["embedded_epmd.install"], "y\\n")
      assert flags(root, @vm_args) == ["+Q 65536" | @both_flags]
      assert File.read!(Path.join(root, @vm_args)) =~ "## -epmd_module Elixir.Other"
    end

    test "is changed without a question by --yes", %{root: root} do
      write(root, @vm_args, "+Q 65536")
      assert {text, 0} = mix(root, ["embedded_epmd.install", "--yes"])
      refute text =~ "Change #{@vm_args}?"
      assert flags(root, @vm_args) == ["+Q 65536" | @both_flags]
    end

    test "and contradicts stops all, and each contradiction is told", %{root: root} do
      write(root, @vm_args, "-epmd_module Elixir.Other\n")
      write(root, @remote, "-start_epmd true\n")
      assert {text, 1} = mix(root, ["embedded_epmd.install", "--yes"])
      assert text =~ "* #{@vm_args} has -epmd_module Elixir.Other, another discovery module"
      assert text =~ "* #{@remote} has -start_epmd true, which starts OTP's daemon"
      assert flags(root, @vm_args) == ["-epmd_module Elixir.Other"]
    end
  end

  defp flags(root, path) do
    lines = root |> Path.join(path) |> File.read!() |> String.split("\n", trim: true)
    for line <- lines, not String.starts_with?(line, "#"), do: line
  end
end
