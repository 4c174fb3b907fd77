defmodule EmbeddedEpmd.InstallUmbrellaTest do
  # The tasks install and doctor in an umbrella: in its root, and in one of its applications.
  use Support.InstallCase, async: true

  @condition "<%= if Map.has_key?(@release.applications, :embedded_epmd) do %>"

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
      assert {text, 0} = mix(root, @install_and_doctor)
      assert text =~ "* #{@vm_args} has all it needs"
      assert File.read!(Path.join(root, @vm_args)) == written
      assert text =~ "ok       #{@vm_args} has all it needs."
      refute text =~ "PROBLEM"
    end

    test "with --local closes the nodes, also later, and refuses what opens them", %{root: root} do
      releases(root, @only)
      local = "-embedded_epmd local true"
      assert {_, 0} = mix(root, ["embedded_epmd.install"])
      assert {text, 0} = mix(root, ["embedded_epmd.install", "--local", "--yes"])
      assert text =~ "* changed #{@vm_args}"
      assert flags(root, @vm_args) == @both_flags ++ [local]
      assert flags(root, @remote) == ["-start_epmd false"]

      for options <- [["--local"], []] do
        assert {text, 0} = mix(root, ["embedded_epmd.install" | options])
        assert text =~ "* #{@vm_args} has all it needs"
      end

      write(root, @vm_args, Enum.join(@both_flags ++ ["-embedded_epmd local false"], "\n"))
      assert {text, 1} = mix(root, ["embedded_epmd.install", "--local", "--yes"])
      assert text =~ "nothing was changed:\n\n  * #{@vm_args} has -embedded_epmd local false, which --local contradicts"
    end

    test "a release without the library shares the files, and keeps OTP's daemon", %{root: root} do
      releases(root)
      assert {text, 0} = mix(root, @install_and_doctor)
      assert text =~ "* the release back does not contain embedded_epmd, and keeps OTP's daemon"
      assert flags(root, @vm_args) == [@condition] ++ @both_flags ++ ["<% end %>"]
      assert flags(root, @remote) == [@condition, "-start_epmd false", "<% end %>"]
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

      assert {text, 0} = mix(root, @install_and_doctor)
      assert flags(root, "rel/web/vm.args.eex") == @both_flags
      assert flags(root, "rel/web/remote.vm.args.eex") == ["-start_epmd false"]
      assert File.ls!(Path.join(root, "rel")) == ["web"]
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
                 "warning  config/#{file}.exs: config :embedded_epmd, #{misspelt} is ignored, since it is not a setting: " <>
                   "did you mean #{setting}?\n"
      end

      refute text =~ "build is ignored"
      refute text =~ "standbys is ignored"
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
      assert {text, 0} = mix(root, @install_and_doctor)
      assert text =~ "* whether the release odd contains embedded_epmd cannot be told here: "
      assert flags(root, @vm_args) == @both_flags
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

    # Only root can give a file away.
    if System.cmd("id", ["-u"]) == {"0\n", 0} do
      test "does not evaluate what another user wrote into a folder above it", %{root: root} do
        releases(root, @only)
        [child, above, evaluated] = for file <- ["apps/web", "mix.exs", "evaluated"], do: Path.join(root, file)
        File.write!(above, ["File.touch!(#{inspect(evaluated)})\n" | File.read!(above)])
        assert {_, 1} = mix(child, ["embedded_epmd.doctor"])
        assert File.exists?(evaluated)

        File.rm!(evaluated)
        File.chown!(above, 65_534)
        for task <- ["embedded_epmd.install", "embedded_epmd.doctor"], do: assert({_, 0} = mix(child, [task]))
        refute File.exists?(evaluated)
      end
    end

    test "that is released by itself, writes its files", %{root: root} do
      child = Path.join(root, "apps/web")
      assert {_, 0} = mix(child, ["embedded_epmd.install"])
      assert flags(child, @vm_args) == @both_flags
      assert {_, 0} = mix(child, ["embedded_epmd.doctor"])
    end
  end
end
